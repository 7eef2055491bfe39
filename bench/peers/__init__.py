"""whit beside other tools: each contender in a virtual environment and a process of its own, in turns, on the same texts."""

"""What client, server and compiler agree on: errors, vector codecs, resource names, the package manifest."""

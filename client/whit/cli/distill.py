"""``whit distill``: a checkpoint learns to give another model's vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whit.cli.command import command, json_option, numbers
from whit.cli.export import stages
from whit.cli.output import console, counted, facts, print_json, shell_word, table

if TYPE_CHECKING:
    from whit.export.distill.loop import DistillReport

SECTIONS = {
    "What is learned": [
        "cosine_weight",
        "l2_weight",
        "passage_weight",
        "similarity_weight",
        "similarity_loss",
        "maxsim",
        "cross_encoder",
        "candidates",
        "hidden_weight",
        "hidden_layers",
        "dimension_counts",
        "depths",
        "qat",
        "embedding_dtype",
        "embedding_code_count",
    ],
    "How it is trained": [
        "epochs",
        "max_minutes",
        "learning_rate",
        "warmup",
        "decay",
        "batch_token_count",
        "max_token_count",
        "freeze",
        "seed",
    ],
    "Where and how fast": ["teacher_dtype", "precision", "threads", "cache", "save_every"],
}


@command(
    "distill",
    examples=[
        "whit distill ./4-layers --teacher ./all-MiniLM-L6-v2 --texts corpus.txt.gz --out ./student",
        "whit distill ./4-layers --teacher packages/mini --texts a.txt --texts b.txt --out ./student --max-minutes 60",
        "whit distill ./small --teacher ./large --texts corpus.txt --out ./student --projection learned --json",
    ],
    exit_codes={1: "a folder or a text file cannot be used: one line on stderr says why"},
    sections=SECTIONS,
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--teacher",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Whose vectors are learned: a checkpoint folder, or a package of whit export.",
)
@click.option(
    "--other-teacher",
    "other_teachers",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="One more teacher: the student learns the mean of all teachers' cosines. Repeat it for several.",
)
@click.option(
    "--texts",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="UTF-8 text of the kind you will embed, one text a line, plain or .gz. Repeat it for several files.",
)
@click.option(
    "--pairs",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Besides or instead: lines TEXT<tab>TARGET. The student reads the text and learns the vector that the teacher "
    "gives the target: its expansion, summary, translation.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the trained checkpoint. Beside it lies DIR.training until the run is done.",
)
@click.option(
    "--augment",
    is_flag=True,
    help="Train on spans of passages and on joined neighbours, too: where queries and documents are embedded.",
)
@click.option(
    "--topics",
    is_flag=True,
    help="Batches of texts about the same, so that fine differences count. The teacher reads all texts first.",
)
@click.option("--epochs", type=int, default=1, show_default=True, help="Times that every text is seen.")
@click.option(
    "--max-minutes",
    type=float,
    metavar="M",
    help="End after so many minutes of training, with the learning rate at 0. Default: when all epochs are done.",
)
@click.option("--learning-rate", type=float, default=2e-4, show_default=True, help="The highest; AdamW.")
@click.option(
    "--warmup", type=float, default=0.05, show_default=True, help="Share of the run in which the learning rate rises."
)
@click.option(
    "--decay",
    type=click.Choice(["cosine", "linear"]),
    default="cosine",
    show_default=True,
    help="How the learning rate falls to 0 afterwards.",
)
@click.option(
    "--batch-token-count", type=int, default=2048, show_default=True, help="Tokens in a batch of similar lengths."
)
@click.option(
    "--max-token-count", type=int, default=128, show_default=True, help="Tokens of a text that are read, at most."
)
@click.option(
    "--freeze",
    type=click.Choice(["none", "words", "embeddings"]),
    default="none",
    show_default=True,
    help="Leave the word embeddings, or all embeddings, as they are: quicker, and safer with little text.",
)
@click.option("--cosine-weight", type=float, default=1.0, show_default=True, help="Loss: 1 - cosine to the teacher.")
@click.option("--l2-weight", type=float, default=0.0, show_default=True, help="Loss: squared distance to the teacher.")
@click.option(
    "--passage-weight",
    type=float,
    default=0.0,
    show_default=True,
    help="Loss: how much nearer other texts of the batch are to the teacher's vector than the student's is.",
)
@click.option(
    "--similarity-weight",
    type=float,
    default=10.0,
    show_default=True,
    help="Loss: difference of the cosines between the texts of a batch to the teacher's.",
)
@click.option(
    "--similarity-loss",
    type=click.Choice(["squared", "margin", "kl"]),
    default="squared",
    show_default=True,
    help="Of the cosines themselves; of how far apart those of one text lie; or of their softmax, where the nearest count.",
)
@click.option(
    "--maxsim",
    is_flag=True,
    help="Teach cosines the MaxSim of the teacher's token vectors instead. Needs its checkpoint folder; slower.",
)
@click.option(
    "--cross-encoder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Teach cosines the scores of this model, which reads two texts at once (sequence classification with one "
    "output), shifted and scaled to cosines. Much slower.",
)
@click.option(
    "--candidates",
    type=int,
    default=4,
    show_default=True,
    help="--cross-encoder: texts of the batch that each text is read with, from nearest to farthest.",
)
@click.option(
    "--hidden-weight",
    type=float,
    default=0.0,
    show_default=True,
    help="Loss: squared difference of hidden states. Needs a teacher of the same width and tokenizer; slower.",
)
@click.option(
    "--hidden-layers",
    metavar="I,J,…",
    callback=lambda _context, _parameter, value: numbers(value),
    help="The teacher's layer, from 0, for each of the student's. Default: evenly spaced, the last on the last.",
)
@click.option(
    "--dimension-counts",
    metavar="N,M,…",
    callback=lambda _context, _parameter, value: numbers(value),
    help="Matryoshka: prefixes of the vectors that are to be good vectors, too.",
)
@click.option(
    "--depths",
    metavar="N,M,…",
    callback=lambda _context, _parameter, value: numbers(value),
    help="2-D Matryoshka: numbers of layers after which there is to be a good vector, too, for whit export --depths.",
)
@click.option(
    "--qat",
    is_flag=True,
    help="Quantisation-aware training: compute with the int8 codes that the package will have. Last of all steps.",
)
@click.option(
    "--embedding-dtype",
    type=click.Choice(["float32", "int8", "int4", "pq"]),
    default="float32",
    show_default=True,
    help="Read word embeddings as a package with this --embedding-dtype holds them, so that the layers make up for what "
    "they lose. Needs --freeze.",
)
@click.option("--embedding-code-count", type=int, metavar="N", help="--embedding-dtype pq: codes a word.")
@click.option(
    "--projection",
    type=click.Choice(["pca", "learned"]),
    default="pca",
    show_default=True,
    help="Where the teacher is wider: shrink its vectors, or end the student in a Dense to its width.",
)
@click.option(
    "--teacher-dtype",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="How a teacher's checkpoint is compiled; int8 is quicker and a little less exact.",
)
@click.option(
    "--sts-dev",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TSV with sentence pairs and scores, measured now and then. Never trained on.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the matrix products; auto takes bfloat16 where the machine has it.",
)
@click.option("--threads", type=int, metavar="N", help="Threads of the CPU. Default: one a core.")
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the teacher's vectors are kept for the next run. Default: whit/distill in your cache folder.",
)
@click.option("--save-every", type=int, default=200, show_default=True, help="Steps after which the state is saved.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the texts.")
@json_option
def distill(checkpoint: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Train CHECKPOINT, a Hugging Face or sentence-transformers folder, to give the teacher's vectors.

    Takes any text, without labels. Losses add up by their weights. The student is usually the teacher with layers dropped. A run that was stopped goes
    on when the same command is given again. Then: whit export DIR.
    """
    if not (options["texts"] or options["pairs"]):
        raise click.UsageError("nothing to learn from; give --texts or --pairs.")
    from whit.export.distill.loop import distill as train
    from whit.export.distill.options import DistillOptions

    chosen = DistillOptions(**{name: value for name, value in options.items() if value is not None})
    with stages() as show:
        report = train(checkpoint, out, chosen, show)
    if as_json:
        print_json(report)
        return
    _print_report(report)
    console().print(f"next: whit export {shell_word(out)} --out PACKAGE", soft_wrap=True)


def _print_report(report: DistillReport) -> None:
    texts = f"{counted(report.texts_seen, 'text')} in {counted(report.steps, 'step')}, {report.minutes:.1f} min"
    pairs: list[tuple[str, object]] = [
        ("student", report.out),
        ("trained on", texts + ("" if report.complete else "; --max-minutes ended it before all epochs were done")),
        ("cosine to the teacher", f"{report.cosine_before:.4f} before, {report.cosine_after:.4f} after"),
    ]
    if report.sts_before is not None and report.sts_after is not None:
        pairs.append(("STS score", f"{report.sts_before:.2f} before, {report.sts_after:.2f} after"))
    console().print(facts(pairs))
    shallow = [name for name in report.history[-1] if name.startswith("cosine_")]
    names = ["texts", "minutes", "loss", "cosine", *shallow, *(["sts"] if report.sts_before is not None else [])]
    rows = [[str(line.get(name, "")) for name in names] for line in report.history]
    console().print(table(names, rows, right=names))

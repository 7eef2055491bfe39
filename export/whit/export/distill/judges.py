"""Teachers that say how alike two texts are, other than by the cosine of two vectors: torch computes them at each step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from whit.export.checkpoint import read_checkpoint
from whit.export.distill.batches import batches
from whit.export.distill.losses import Scores, maxsim
from whit.export.distill.student import Student
from whit.export.errors import CheckpointError

_PAIR_TOKEN_COUNT = 8192  # in a batch of the cross-encoder


class Judge(Protocol):
    """Scores pairs of texts, on a scale of its own."""

    fingerprint: str

    def scores(self, texts: Sequence[str], cosines: Tensor) -> Scores:
        """Scores of pairs of B texts.

        Args:
            texts: B texts.
            cosines: those of the teacher's vectors [B, B], by which a slow judge chooses the pairs.
        """


class TokenJudge:
    """MaxSim over the token vectors of a checkpoint, which a single vector is to stand for (TCT-ColBERT, arXiv:2010.11386)."""

    def __init__(self, folder: Path, device: torch.device, max_token_count: int) -> None:
        checkpoint = read_checkpoint(folder)
        self._model, self._tokenizer = Student(checkpoint, device), checkpoint.tokenizer
        limit = min(max_token_count, checkpoint.max_token_count or max_token_count, self._model.max_token_count)
        self._tokenizer.enable_truncation(limit)
        self._device = device
        self.fingerprint = f"maxsim of {checkpoint.sha256}"

    def scores(self, texts: Sequence[str], cosines: Tensor) -> Scores:
        """As ``Judge.scores``: of all pairs. Tokens that every text has, such as [CLS], do not count."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        encoded = self._model.encode([np.array(e.ids, np.int64) for e in encodings])
        own = torch.zeros_like(encoded.mask)
        for row, encoding in zip(own, encodings, strict=True):
            special = encoding.special_tokens_mask
            row[: len(special)] = 1.0 - torch.tensor(special, dtype=row.dtype, device=self._device)
        own = torch.where(own.any(dim=1, keepdim=True), own, encoded.mask)  # a text of nothing else
        with torch.autocast(self._device.type, enabled=False):
            values = maxsim(encoded.hidden[-1].float(), own)
        return Scores(values, ~torch.eye(len(texts), dtype=torch.bool, device=self._device))


class CrossEncoder:
    """A model that reads two texts at once and gives one number (DSE, arXiv:1908.05161; BLINK, arXiv:1911.03814).

    Each text is read with a few others of the batch only, spread over the teacher's ranking of them: the nearest, about which
    there is most to learn, lie densest.
    """

    def __init__(self, folder: Path, device: torch.device, max_token_count: int, candidates: int) -> None:
        self._model, self._tokenizer = _load(folder)
        self._model.to(device)
        self._device, self._candidates = device, candidates
        longest = int(getattr(self._model.config, "max_position_embeddings", None) or 2 * max_token_count)
        self._limit = min(2 * max_token_count, self._tokenizer.model_max_length, longest)
        self.fingerprint = f"cross-encoder {_digest(self._model)}"

    def scores(self, texts: Sequence[str], cosines: Tensor) -> Scores:
        """As ``Judge.scores``: of ``candidates`` pairs a text."""
        known = chosen_pairs(cosines, self._candidates)
        rows, columns = (index.tolist() for index in known.nonzero(as_tuple=True))
        values = torch.zeros_like(cosines)
        values[known] = self.pair_scores([texts[i] for i in rows], [texts[i] for i in columns])
        return Scores(values, known)

    def pair_scores(self, first: Sequence[str], second: Sequence[str]) -> Tensor:
        """The model's score, before any activation, of each pair: float32 [n]."""
        encoded = self._tokenizer(list(first), list(second), truncation="longest_first", max_length=self._limit)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        found = torch.empty(len(first), device=self._device)
        for batch in batches(lengths, _PAIR_TOKEN_COUNT, (0,)):
            part = {name: [values[i] for i in batch] for name, values in encoded.items()}
            inputs = self._tokenizer.pad(part, return_tensors="pt").to(self._device)
            with torch.no_grad():
                found[batch] = self._model(**inputs).logits[:, 0].float()
        return found


def chosen_pairs(cosines: Tensor, count: int) -> Tensor:
    """For each of B texts ``count`` others, as bool [B, B]: ranks by cosine in geometric steps from nearest to farthest."""
    others = len(cosines) - 1
    known = torch.zeros_like(cosines, dtype=torch.bool)
    if others:
        ranks = np.unique(np.geomspace(1, others, min(count, others)).round().astype(int)) - 1
        distant = -cosines.masked_fill(torch.eye(others + 1, dtype=torch.bool, device=cosines.device), -torch.inf)
        order = distant.argsort(dim=1, stable=True)
        known.scatter_(1, order[:, torch.from_numpy(ranks).to(cosines.device)], True)
    return known


@dataclass(frozen=True, slots=True)
class Scale:
    """Brings a judge's scores to the scale of cosines: ``factor * score + shift``."""

    factor: float
    shift: float

    @classmethod
    def fit(cls, scores: Scores, cosines: Tensor) -> Scale:
        """The scale on which these scores have the mean and the spread of the teacher's cosines [B, B] of the same pairs.

        Raises:
            CheckpointError: the scores are all the same, or no numbers.
        """
        ours, theirs = scores.values[scores.known], cosines[scores.known]
        spread = float(ours.std())
        if not spread > 1e-6 * float(ours.abs().max()):
            raise CheckpointError(
                "the scores of pairs of texts are all the same, or no numbers, so nothing can be learned from them; give "
                "another cross_encoder, or texts that differ"
            )
        factor = float(theirs.std()) / spread
        return cls(factor, float(theirs.mean()) - factor * float(ours.mean()))

    def apply(self, scores: Scores) -> Scores:
        """The scores on the scale of cosines."""
        return Scores(scores.values * self.factor + self.shift, scores.known)


def _load(folder: Path) -> tuple[Any, Any]:
    """A cross-encoder and its tokenizer from a local folder.

    Raises:
        CheckpointError: it is none, or gives other than one number.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"cross_encoder {folder} has no config.json; give the folder of a saved cross-encoder")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call, unused-ignore]
    before = logging.get_verbosity()
    logging.set_verbosity(40)  # errors only: what is missing is refused below
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"cross_encoder {folder} cannot be read ({why}); give a folder with safetensors"
        ) from None
    finally:
        logging.set_verbosity(before)
    if info["missing_keys"]:
        raise CheckpointError(
            f"cross_encoder {folder} lacks {min(info['missing_keys'])!r}; give a model that was trained to score pairs"
        )
    if model.config.num_labels != 1:
        raise CheckpointError(
            f"cross_encoder {folder} gives {model.config.num_labels} numbers for a pair; give one that gives 1"
        )
    return model.eval(), tokenizer


def _digest(model: Any) -> str:
    """Names the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

"""A training run under way: epochs, validation, what is saved, and why it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from neurosens_fast.support.files import csv_content, write_whole
from neurosens_fast.support.processes import raise_together, rank_and_world, share_buffers, summed
from neurosens_fast.support.random_state import random_state

from . import checkpoints
from .board import Board
from .loader import Loader, epoch_seed, steps_of
from .progress import epoch_bar
from .result import COLUMNS, Epoch, TrainingResult, rows_as_json, rows_from_json
from .settings import Settings
from .step import MEND, Step
from .validation import Validation
from .watch import BACK_OFFS, DivergedError, Watch, bad_weights


class Run:
    """Everything between the first and the last epoch of one call of ``fit``."""

    def __init__(
        self,
        step: Step,
        loader: Loader,
        validation: Validation,
        method: str,
        epochs: int,
        settings: Settings,
        facts: dict[str, Any],
    ) -> None:
        self.step, self.loader, self.validation = step, loader, validation
        self.method, self.epochs, self.settings = method, epochs, settings
        self.steps_per_epoch = steps_of(loader)
        self.facts = {**facts, "method": method, "epochs": epochs, "steps_per_epoch": self.steps_per_epoch}
        self.facts["settings"] = settings.as_json()
        self.watch = Watch(settings.collapse, settings.collapse_points, settings.patience)
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.stopped = ""

    def go(
        self, folder: Path | None, resume: bool, progress: bool, board: Board, on_epoch: Callable[[Epoch], None] | None
    ) -> TrainingResult:
        """Train to the end; see ``fit``."""
        if resume:
            assert folder is not None
            self._resume(folder)
        first = len(self.history) + 1
        board.begin(first)
        for epoch in range(first, self.epochs + 1):
            if self.stopped:
                break
            row = self._epoch(epoch, progress)
            self.history.append(row)
            if self._validated(epoch):
                if self.watch.add(epoch, self._followed(row)):
                    self.best = checkpoints.model_tensors(self.step.evaluated)
                else:
                    self._look_for_an_end(row)
            if folder is not None:
                self._save(folder, epoch)
            board.add(row)
            if on_epoch is not None:
                on_epoch(row)
        if self.settings.keep == "best":
            checkpoints.load_tensors(self.step.model, self.best)
        elif self.step.ema is not None:
            checkpoints.load_tensors(self.step.model, checkpoints.model_tensors(self.step.evaluated))
        best_epoch = self.watch.best_epoch
        return TrainingResult(self.step.model, self.method, self.history, best_epoch, self.best, self.stopped, folder)

    def _validated(self, epoch: int) -> bool:
        return epoch % self.settings.val_every == 0 or epoch == self.epochs

    def _followed(self, row: Epoch) -> float:
        """The accuracy by which epochs are compared."""
        return row.clean_accuracy if self.method == "standard" else row.adversarial_accuracy

    def _epoch(self, epoch: int, progress: bool) -> Epoch:
        seed, step, begin = epoch_seed(self.settings.seed, epoch), self.step, time.perf_counter()
        total = self.epochs * self.steps_per_epoch
        step.reset(seed)
        batches = 0
        last = self.history[-1] if self.history else None
        with (
            random_state(seed + rank_and_world()[0]),
            epoch_bar(progress, epoch, self.epochs, self.steps_per_epoch, last) as bar,
        ):
            for batches, (images, labels, index) in enumerate(self.loader.batches(epoch), 1):
                done = ((epoch - 1) * self.steps_per_epoch + batches - 0.5) / total
                step(images, labels, index, min(done, 1.0), f"epoch {epoch}, batch {batches}")
                bar(batches)
        if not batches:
            raise ValueError(
                f"the training data gave no batch in epoch {epoch}; a generator can be read only once, give a "
                "DataLoader or tensors"
            )
        if (weights := bad_weights(step.evaluated)) is not None:
            raise DivergedError(f"{weights} after epoch {epoch}, though the loss was; {MEND}")
        share_buffers(step.model)
        share_buffers(step.evaluated)
        totals = summed(step.totals.clone())
        loss, term, accuracy = step.means(totals)
        seen = int(totals[3])
        before = self.history[-1].gradient_evaluations if self.history else 0
        clean = adversarial = float("nan")
        if self._validated(epoch):
            with random_state(seed):
                clean, adversarial = self.validation(step.evaluated)
        return Epoch(
            epoch=epoch,
            loss=loss,
            term=term,
            train_accuracy=accuracy,
            clean_accuracy=clean,
            adversarial_accuracy=adversarial,
            lr=step.learning_rate(((epoch - 1) * self.steps_per_epoch + 0.5) / total),
            gradient_evaluations=before + seen * step.evaluations,
            seconds=time.perf_counter() - begin,
        )

    def _look_for_an_end(self, row: Epoch) -> None:
        accuracy, watch = self._followed(row), self.watch
        if watch.collapsed(accuracy):
            best = f"{watch.best:.1%} in epoch {watch.best_epoch}"
            if watch.collapse == "back-off" and watch.back_offs < BACK_OFFS and row.epoch < self.epochs:
                watch.back_offs += 1
                self.step.lr_factor *= 0.5
                checkpoints.load_tensors(self.step.model, self.best)
                if self.step.ema is not None:
                    checkpoints.load_tensors(self.step.ema.module, self.best)
                self.step.forget()
                return
            self.stopped = f"collapse: accuracy fell from {best} to {accuracy:.1%} in epoch {row.epoch}"
        elif watch.tired(row.epoch):
            self.stopped = f"no better accuracy than {watch.best:.1%} since epoch {watch.best_epoch}"

    # On disk.

    def _save(self, folder: Path, epoch: int) -> None:
        """Write the checkpoint, and then what people read and use, which can be made of it again."""
        problem = None
        if rank_and_world()[0] == 0:
            try:
                self._save_checkpoint(folder / checkpoints.CHECKPOINT)
                self._save_results(folder, epoch)
            except (OSError, ValueError) as error:
                problem = error
        raise_together(problem, "saving", self.step.device)

    def _save_checkpoint(self, path: Path) -> None:
        step = self.step
        tensors, plain = checkpoints.optimizer_tensors(step.optimizer)
        state = checkpoints.under("model", checkpoints.model_tensors(step.model))
        state |= checkpoints.under("best", self.best) | checkpoints.under("optimizer", tensors)
        if step.ema is not None:
            state |= checkpoints.under("ema", checkpoints.model_tensors(step.ema))
        facts = {**self.facts, **self._progress(), "optimizer": plain, "scaler": step.scaler.state_dict()}
        if step.sns is not None:
            chosen = step.sns.get_extra_state()
            kept = {name: value.cpu() for name, value in chosen.items() if isinstance(value, Tensor)}
            state |= checkpoints.under("sns", kept)
            facts["sns"] = {name: value for name, value in chosen.items() if name not in kept}
        checkpoints.save_checkpoint(path, state, facts)

    def _save_results(self, folder: Path, epoch: int) -> None:
        weights = {checkpoints.LAST: (checkpoints.model_tensors(self.step.evaluated), epoch)}
        if self.best:
            weights[checkpoints.BEST] = (self.best, self.watch.best_epoch)
        for name, (state, of_epoch) in weights.items():
            checkpoints.save_weights(folder / name, state, {**self.facts, "epoch": of_epoch})
        save_summary(folder, {**self.facts, **self._progress()}, self.history)

    def _progress(self) -> dict[str, Any]:
        return {
            "history": rows_as_json(self.history),
            "watch": self.watch.state(),
            "lr_factor": self.step.lr_factor,
            "stopped": self.stopped,
        }

    def _resume(self, folder: Path) -> None:
        path = folder / checkpoints.CHECKPOINT
        tensors, facts = checkpoints.read_checkpoint(path)
        checkpoints.check_same_run(path, facts, self.facts)
        checkpoints.load_tensors(self.step.model, checkpoints.below("model", tensors), path)
        checkpoints.load_optimizer(self.step.optimizer, checkpoints.below("optimizer", tensors), facts["optimizer"])
        if self.step.ema is not None:
            checkpoints.load_tensors(self.step.ema, checkpoints.below("ema", tensors), path)
        self.step.scaler.load_state_dict(facts["scaler"])
        if self.step.sns is not None:
            self.step.sns.set_extra_state({**facts["sns"], **checkpoints.below("sns", tensors)})
        self.best = checkpoints.below("best", tensors)
        self.history = rows_from_json(facts["history"])
        self.watch.load(facts["watch"])
        self.step.lr_factor, self.stopped = float(facts["lr_factor"]), str(facts["stopped"])
        if rank_and_world()[0] == 0:
            self._save_results(folder, len(self.history))  # the process may have ended before it wrote them


def save_summary(folder: Path, facts: dict[str, Any], history: list[Epoch]) -> None:
    """Write ``training.json`` and ``log.csv``, what people read of a run."""
    from pandas import DataFrame

    rows = DataFrame([vars(row) for row in history], columns=list(COLUMNS))
    write_whole(folder / checkpoints.SUMMARY, (json.dumps(facts, indent=1) + "\n").encode())
    write_whole(folder / checkpoints.LOG, csv_content(rows))

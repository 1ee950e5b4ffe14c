"""SB3 loggers that a resumed run can add to."""

import csv
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from fwagents.files import naming

STEPS = "time/total_timesteps"


def run_logger(folder: Path, resume_from: int | None = None) -> Logger:
    """Return a logger that writes ``progress.csv`` and TensorBoard events.

    Args:
        folder: the run's folder.
        resume_from: environment step from which the run resumes; entries after that step are dropped. None starts new
            files.
    """
    path = folder / "progress.csv"
    board = TensorBoardOutputFormat(str(folder))
    if resume_from is None:
        formats: list[KVWriter] = [CSVOutputFormat(str(path)), board]
    else:
        board.writer.close()
        board.writer = SummaryWriter(log_dir=str(folder), purge_step=resume_from + 1)
        formats = [_ContinuedCSV(path, resume_from), board]
    return _RunLogger(str(folder), formats)


class _RunLogger(Logger):
    """SB3's ``Logger``, with errors that name the folder."""

    def dump(self, step: int = 0) -> None:
        with naming(Path(str(self.dir))):
            super().dump(step)

    def close(self) -> None:
        with naming(Path(str(self.dir))):
            super().close()


class _ContinuedCSV(CSVOutputFormat):
    """SB3's ``CSVOutputFormat`` that continues a file after its last row of at most ``resume_from`` steps."""

    def __init__(self, path: Path, resume_from: int) -> None:
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                # A row that was cut off in the middle has no steps.
                rows = [row for row in csv.DictReader(file) if _steps(row) <= resume_from]
        super().__init__(str(path))
        if rows:
            self.keys = list(rows[0])
            writer = csv.DictWriter(self.file, self.keys, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            self.file.flush()


def _steps(row: dict[str, str]) -> float:
    try:
        return int(row[STEPS])
    except (KeyError, TypeError, ValueError):
        return float("inf")

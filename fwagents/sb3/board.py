"""Contents of a run's TensorBoard page besides its curves: combined charts, a table of runs, a guide."""

from collections.abc import Mapping
from typing import Any, cast

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fwagents.cores import CORES
from fwagents.inspection.attention import FAST_MEMORIES

# Charts of the custom-scalars tab, the most important first. A chart has one colour for each run, so two tags of a run
# could not be told apart in it.
CHARTS = {
    "How well it plays": {
        "return, evaluated": ["eval/mean_reward"],
        "return in training": ["rollout/ep_rew_mean"],
        "success rate, evaluated": ["eval/success_rate"],
        "success rate in training": ["rollout/success_rate"],
        "steps of an episode in training": ["rollout/ep_len_mean"],
    },
    "What the memory holds": {
        "norm of the hidden state, or of the latest projections": ["memory/h_norm", "memory/recent_norm"],
        "norm of the fast weights, or of the cell": ["memory/A_norm", "memory/W_norm", "memory/c_norm"],
    },
    "How it learns": {
        "explained variance of the value: 1 is all of it": ["train/explained_variance"],
        "how far an update moves the policy (KL)": ["train/approx_kl"],
        "share of the steps that were clipped": ["train/clip_fraction"],
        "negative entropy of the actions": ["train/entropy_loss"],
        "learning rate": ["train/learning_rate"],
    },
}
# Columns of the table of runs: the latest value of each tag.
RESULTS = ("eval/success_rate", "eval/mean_reward", "rollout/ep_rew_mean", "time/fps")
GUIDE = {
    "`eval/`": "greedy play, always the same episodes",
    "`rollout/`": "play in training, the latest 100 episodes",
    "`memory/*_norm`": "size of what the memory holds, at the end of a rollout",
    "`train/`": "the optimiser: losses, entropy, how far updates move the policy",
    "`time/fps`": "environment steps per second",
}
# Only a run with --log-memory has these.
GUIDE_OF_MEMORY = {
    "`memory/attention`": "what each step of one episode looks back at; where the memory has heads, a panel for each",
    "`memory/film`": "that episode, where the environment can be drawn: the screen, what the agent saw and did, "
    "and what it looked back at",
    "`memory/units`": "activity of the units",
}
GUIDE_OF_READS = {
    "`memory/looks_back`": "how many steps back the reads of the fast weights look, by the size of what they find; "
    "where the memory has heads, a histogram for each",
}


def board_writer(logger: Logger) -> SummaryWriter | None:
    """Return the writer of a logger's TensorBoard page; None if the logger has no such page."""
    forms = [form for form in logger.output_formats if isinstance(form, TensorBoardOutputFormat)]
    return forms[0].writer if forms else None


def describe_run(logger: Logger, compared: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Open a run's page: its charts, its line in the table of runs, its options and a guide as text.

    Args:
        logger: the logger of a new run; the page of a resumed run has all this already.
        compared: the options by which runs are compared, few enough for a table.
        options: all other options; an option that is None is left out.
    """
    writer = board_writer(logger)
    if writer is None:
        return
    writer.add_custom_scalars(
        {group: {title: ["Multiline", tags] for title, tags in charts.items()} for group, charts in CHARTS.items()}
    )
    told = {name: value for name, value in {**compared, **options}.items() if value is not None}
    plain = {
        name: value if isinstance(value, (int, float)) else str(value)
        for name, value in told.items()
        if name in compared
    }
    # Not by add_hparams, which would make a run of its own.
    make: Any = hparams  # hparams has no type hints
    for part in make(plain, dict.fromkeys(RESULTS, 0.0)):
        cast(Any, writer)._get_file_writer().add_summary(part)
    table = "".join(f"| {name} | `{value}` |\n" for name, value in told.items())
    writer.add_text("run/options", f"| option | value |\n|---|---|\n{table}")
    writer.add_text("run/guide", _guide(told))


def _guide(told: Mapping[str, Any]) -> str:
    """Return the tags of a run with these options, as a table."""
    tags = dict(GUIDE)
    if told.get("log_memory"):
        core: Any = CORES.get(str(told.get("core")), object)
        exact = issubclass(core, FAST_MEMORIES) and told.get("inner_steps") != 0
        tags |= GUIDE_OF_MEMORY | (GUIDE_OF_READS if exact else {})
    rows = "".join(f"| {tag} | {meaning} |\n" for tag, meaning in tags.items())
    return f"| tag | meaning |\n|---|---|\n{rows}"

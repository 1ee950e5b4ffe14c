"""A run's TensorBoard page, read by TensorBoard's own reader."""

import re

import pytest
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from fwagents.sb3.board import CHARTS, RESULTS, board_writer, describe_run
from fwagents.sb3.logging import run_logger


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_page(tmp_path):
    logger = run_logger(tmp_path)
    describe_run(logger, {"core": "gru", "hidden_size": 8, "inner_steps": None}, {"gamma": 0.9, "batch_size": None})
    logger.close()
    events = read(tmp_path)
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(CHARTS)
    (text,) = events.Tensors("run/options/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines()[2:] == [
        *("| core | `gru` |", "| hidden_size | `8` |", "| gamma | `0.9` |")
    ]
    content = {
        name: plugin_data_pb2.HParamsPluginData.FromString(found)
        for name, found in events.PluginTagToContent("hparams").items()
    }
    experiment = content["_hparams_/experiment"].experiment
    assert {info.name.tag for info in experiment.metric_infos} == set(RESULTS)
    session = content["_hparams_/session_start_info"].session_start_info
    assert session.hparams["core"].string_value == "gru"
    assert session.hparams["hidden_size"].number_value == 8
    assert set(session.hparams) == {"core", "hidden_size"}


def test_without_tensorboard_there_is_no_page(tmp_path):
    logger = Logger(None, [])
    assert board_writer(logger) is None
    describe_run(logger, {"core": "gru"}, {})


@pytest.mark.parametrize(
    ("core", "inner_steps", "log_memory", "logged"),
    [
        ("fast_weights", None, False, set()),
        ("gru", None, True, {"attention", "film", "units"}),
        ("fast_weights", 0, True, {"attention", "film", "units"}),
        ("fast_weights", None, True, {"attention", "film", "units", "looks_back"}),
        ("rotary_fast_weights", None, True, {"attention", "film", "units", "looks_back"}),
    ],
)
def test_the_guide_names_what_the_run_has(core, inner_steps, log_memory, logged, tmp_path):
    logger = run_logger(tmp_path)
    describe_run(logger, {"core": core, "inner_steps": inner_steps}, {"log_memory": log_memory})
    logger.close()
    (text,) = read(tmp_path).Tensors("run/guide/text_summary")
    guide = text.tensor_proto.string_val[0].decode()
    assert set(re.findall(r"memory/(\w+)`", guide)) == logged
    assert "`eval/`" in guide

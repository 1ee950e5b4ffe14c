"""Export of trained agents: to ONNX, and to files that load without pickle.

Each function imports its dependencies when it is called: ``pip install "fwagents[export]"``.
"""

from fwagents.export.normalization import Normalization
from fwagents.export.onnx import export_onnx
from fwagents.export.safe import Agent, load_policy, save_policy

__all__ = ["Agent", "Normalization", "export_onnx", "load_policy", "save_policy"]

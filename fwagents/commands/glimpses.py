"""Train a memory to tell images apart by glimpses, coarse and fine. Ba et al. (2016), sections 4.2 and 4.3.

``fwagents glimpses --model multilevel --hidden-size 50``

MNIST is read from --data-dir, else from the folder that FWAGENTS_MNIST names, else downloaded once. Other images:
``--dataset folder --data-dir FOLDER --patch-size 12`` reads FOLDER/<train, validation, test>/<class>/<image>.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fwagents.runs.options import Count, Within
from fwagents.runs.supervised import Problem, SupervisedArgs, read, run

if TYPE_CHECKING:
    from torch import nn

    from fwagents.tasks.data import Splits


@dataclass
class Args(SupervisedArgs):
    """Train a memory to tell images apart by glimpses."""

    model: Literal["plain", "multilevel", "convnet"] = "plain"
    """plain runs the core on the glimpses; multilevel controls when fast weights store, reset and integrate; convnet
    runs convolutions with --hidden-size features on the same patches."""
    dataset: Literal["mnist", "folder"] = "mnist"
    """Source of the images."""
    data_dir: Path | None = None
    """Folder of the data set."""
    patch_size: Annotated[int, Within(1, 1000)] = 7
    """Pixels along each side of a patch; images are four times as large. MNIST's is 7."""
    validation_images: Count = 5000
    """Training images that are held out for validation, if the data set has no validation images."""

    updates: Count = 8600
    """Largest number of batches to train on; 430 are an epoch of MNIST."""
    eval_freq: Count = 430
    """Updates between two validations. The best weights are kept, and a checkpoint is saved after each validation."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, test."""
    args, core_kwargs = read(Args, sys.argv[1:] if argv is None else argv, "glimpses")

    def build() -> Problem:
        from fwagents.runs.limits import make_model

        splits, classes = data(args)
        count = len(classes) or 10
        core = "convnet" if args.model == "convnet" else args.core
        label = args.core if args.model == "plain" else args.model
        rows = min(args.batch_size, len(splits.train.labels))
        built = make_model(lambda: model(args, core_kwargs, count), f"--hidden-size {args.hidden_size}", rows)
        return Problem(built, splits, core, label, classes)

    sys.exit(run(args, core_kwargs, "glimpses", build))


def data(args: Args) -> tuple["Splits", Sequence[str]]:
    """Return the images, and the names of their classes if the images come from folders."""
    from fwagents.tasks.data import Examples, Splits
    from fwagents.tasks.folder import load_image_folder
    from fwagents.tasks.glimpses import hold_out
    from fwagents.tasks.mnist import load_mnist

    if args.dataset == "mnist":
        if args.patch_size != 7:
            raise ValueError(f"--patch-size is {args.patch_size}, expected 7 for mnist")
        mnist = load_mnist(args.data_dir)
        train = Examples(mnist.train_images, mnist.train_labels)
        return Splits(*hold_out(train, args.validation_images), Examples(mnist.test_images, mnist.test_labels)), ()
    if args.data_dir is None:
        raise ValueError("--dataset folder needs --data-dir, the folder of train and test")
    images = load_image_folder(args.data_dir, 4 * args.patch_size)
    if images.validation is not None:
        return Splits(images.train, images.validation, images.test), images.classes
    return Splits(*hold_out(images.train, args.validation_images), images.test), images.classes


def model(args: Args, core_kwargs: dict[str, Any], classes: int) -> "nn.Module":
    """Return the model that the options describe."""
    from fwagents.cores import FastWeights, make_core
    from fwagents.tasks.glimpses import GlimpseModel, MultiLevelModel, PatchConvNet

    if args.model == "convnet":
        given = [option for option in (args.inner_steps, args.decay, args.fast_lr) if option is not None]
        if args.core != "fast_weights" or given or args.core_kwargs:
            raise ValueError("--model convnet has no core, expected neither --core nor options of one")
        return PatchConvNet(args.patch_size, args.hidden_size, classes)
    core = make_core(args.core, args.patch_size**2, args.hidden_size, **core_kwargs)
    if args.model == "plain":
        return GlimpseModel(core, classes)
    if not isinstance(core, FastWeights):
        raise ValueError(f"--core is {args.core}, expected fast_weights for --model multilevel")
    return MultiLevelModel(core, classes)

"""Write COMING_FROM.md: what PyTorch and Keras call things, and what they are called here, or why they are not here.

    pip install torch keras && python examples/coming_from.py

The names come from the installed packages, and everything that these have must be told of: a name that nothing below
speaks of, and a line below that speaks of no name, is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tinygrad_mm import nn, optim

PAGE = Path(__file__).with_name("COMING_FROM.md")

# A pattern of names -> what to write here: code in backticks, with words beside it where it needs them. Of an array x.
TORCH_LAYERS = {
    "ChannelShuffle": "`x.reshape(n, groups, -1, h, w).swapaxes(1, 2).reshape(x.shape)`",
    "CircularPad1d": "`np.pad(x, ((0, 0), (0, 0), (1, 1)), 'wrap')`",
    "CircularPad2d": "`np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), 'wrap')`",
    "Container": "`nn.Module`",
    "CosineSimilarity": "`tg.cosine_similarity(x, y)`",
    "DataParallel": "threads share a batch in `tg.compile_step`",
    "Fold": "`functional.overlap_add`",
    "Hardshrink": "`np.where(np.abs(x) > 0.5, x, 0)`",
    "HingeEmbeddingLoss": "`np.mean(np.where(target > 0, x, tg.relu(1 - x)))`",
    "LinearCrossEntropyLoss": "`tg.cross_entropy(linear(x), labels)`",
    "MultiheadAttention": "`nn.MultiHeadAttention`, in Keras's spelling",
    "NLLLoss2d": "`nn.NLLLoss`, classes last",
    "PairwiseDistance": "`tg.pairwise_distance(x, y)`",
    "ParameterDict": "a dict of `nn.Parameter`",
    "ParameterList": "a list of `nn.Parameter`",
    "PixelUnshuffle": (
        "`x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(n, -1, h // 2, w // 2)`"
    ),
    "RNNBase": "inside `nn.RNN`, `nn.LSTM` and `nn.GRU`",
    "RNNCellBase": "inside `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell`",
    "SoftMarginLoss": "`np.mean(tg.softplus(-target * x))`",
    "Softmax2d": "`nn.Softmax(axis=1)(x)`",
    "Softshrink": "`np.sign(x) * tg.relu(np.abs(x) - 0.5)`",
    "Tanhshrink": "`x - np.tanh(x)`",
    "Threshold": "`np.where(x > 0.1, x, 20)`",
    "TripletMarginWithDistanceLoss": "`np.mean(tg.relu(distance(x, y) - distance(x, z) + 1))`",
    "Unfold": "`functional.windows`",
    "UpsamplingBilinear2d": "`nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True)`",
    "UpsamplingNearest2d": "`nn.Upsample(scale_factor=2)`",
}
TORCH_LAYERS_NOT = {
    r".*3d": "three spatial axes: `functional.windows` and `functional.overlap_add` take any number of them",
    r"Lazy.*": "sizes are given; an error names the right one: `did you mean Dense(784, 10)?`",
    "AdaptiveLogSoftmaxWithLoss": "for vocabularies of 100,000 words: rare, now that tokens are pieces of words",
    "(Feature)?AlphaDropout": "goes with SELU only; rare",
    "Bilinear": "rare: `np.einsum('ni,oij,nj->no', x, weight, y)`",
    "CrossMapLRN2d|LocalResponseNorm": "AlexNet's; batch norm took its place in 2015",
    "EmbeddingBag": "`embedding(codes).mean(1)`; it is for sparse gradients, which are not here",
    "FractionalMaxPool2d|LPPool[12]d": "rare",
    "MaxUnpool[12]d": "needs the places of the maxima; rare (SegNet)",
    "MultiLabelMarginLoss": "rare; binary cross entropy is what is used",
    "MultiLabelSoftMarginLoss": "`nn.BCEWithLogitsLoss` is the same mean",
    "RReLU": "rare",
    "SyncBatchNorm": "statistics of a batch that is spread over processes; smaller batches have their own",
}
TORCH_OPTIMIZERS = {"SparseAdam": "`optim.Adam`: there are no sparse gradients, so it is the same"}
TORCH_OPTIMIZERS_NOT = {
    "ASGD": "an average of SGD's weights: `optim.ExponentialMovingAverage` does that for any optimizer",
    "Adafactor": "saves the memory of Adam's second moment, for models larger than those trained here",
    "Rprop": "for full batches only, where `optim.LBFGS` is better",
}
TORCH_SCHEDULES = {
    "LambdaLR|MultiplicativeLR": "any function of the step is a schedule",
    "StepLR|MultiStepLR": "`optim.step_decay`, with `every=` or `at=`",
    "ConstantLR": "a number",
    "LinearLR": "`optim.linear`",
    "ExponentialLR": "`optim.exponential`",
    "PolynomialLR": "`optim.polynomial`",
    "CosineAnnealingLR": "`optim.cosine`",
    "CosineAnnealingWarmRestarts": "`optim.cosine_with_restarts`",
    "CyclicLR": "`lambda step: up_and_down(step % 2000)`, of any schedule",
    "OneCycleLR": "`optim.one_cycle`",
    "SequentialLR": "`optim.joined`, `optim.warm_up`",
    "ChainedScheduler": "a product of functions",
    "ReduceLROnPlateau": "`optim.ReduceOnPlateau`",
}
TORCH_INITS = {
    "xavier_.*": "`nn.init.glorot_uniform`, `nn.init.glorot_normal`",
    "kaiming_.*": "`nn.init.he_uniform`, `nn.init.he_normal`; `nn.init.lecun_uniform`, `nn.init.lecun_normal`",
    "trunc_normal_": "`nn.init.truncated_normal`",
    "eye_": "`nn.init.dirac`, of two axes",
    ".*": "the same word without the dash, a function that returns an array: `nn.init.orthogonal`",
}

KERAS_LAYERS = {
    "Activation": "any function of arrays in a `nn.Sequential`: `np.tanh`",
    "Adaptive(Average|Max)Pooling[12]D": "`nn.AdaptiveAvgPool2d`, `nn.AdaptiveMaxPool2d`, and with 1d",
    "Average(Pooling)[12]D|AvgPool[12]D": "`nn.AvgPool1d`, `nn.AvgPool2d`",
    "Max(Pooling|Pool)[12]D": "`nn.MaxPool1d`, `nn.MaxPool2d`",
    "GlobalAv(erage|g)Pool(ing)?[123]D": "`nn.GlobalAvgPool`, over all axes behind the channels",
    "GlobalMaxPool(ing)?[123]D": "`nn.GlobalMaxPool`",
    "Add|Average|Maximum|Minimum|Multiply|Subtract": "NumPy: `x + y`, `np.maximum(x, y)`",
    "Concatenate|Dot|Permute|RepeatVector|Reshape": "NumPy: `np.concatenate`, `x @ y`, `x.transpose(0, 2, 1)`",
    "Lambda": "a plain function in a `nn.Sequential`",
    "EinsumDense": "`np.einsum('...i,io->...o', x, weight)`",
    "Attention|AdditiveAttention": "`tg.scaled_dot_product_attention`; additive attention is an expression",
    "GroupQueryAttention": "`nn.MultiHeadAttention`, with `key_value_heads=`",
    "BatchNormalization": "`nn.BatchNorm1d`, `nn.BatchNorm2d`",
    "GroupNormalization": "`nn.GroupNorm`; of as many groups as channels, `nn.InstanceNorm2d`",
    "LayerNormalization": "`nn.LayerNorm`",
    "RMSNormalization": "`nn.RMSNorm`",
    "UnitNormalization": "`x / np.linalg.norm(x, axis=-1, keepdims=True)`",
    "Normalization|Rescaling": "NumPy, before training: `(x - x.mean(0)) / x.std(0)`",
    "Bidirectional": "`bidirectional=True` of `nn.RNN`, `nn.LSTM` and `nn.GRU`",
    "Conv(olution)?[12]D": "`nn.Conv1d`, `nn.Conv2d`, channels first",
    "Conv(olution)?[12]DTranspose": "`nn.ConvTranspose1d`, `nn.ConvTranspose2d`",
    "DepthwiseConv[12]D|Separable.*": "`nn.Conv2d`, with `groups=` the number of channels; then one of size 1",
    "Cropping.*|CenterCrop": "slices: `x[..., 2:-2, 2:-2]`",
    "GaussianNoise|GaussianDropout": "`x + tg.random.normal(0, 0.1, x.shape)`, or times that",
    "Input|InputLayer|InputSpec|Layer|Wrapper|Pipeline": "`nn.Module`; shapes are those of what comes",
    "Masking": "`lengths=` or `mask=` of recurrent layers, `mask=` of attention, `padding_idx=` of `nn.Embedding`",
    "ReversibleEmbedding": "`h @ embedding.weight.T`",
    "SimpleRNN": "`nn.RNN`",
    "SimpleRNNCell": "`nn.RNNCell`",
    "StackedRNNCells": "`layers=` of `nn.RNN`, `nn.LSTM` and `nn.GRU`",
    "SpatialDropout[12]D": "`nn.Dropout1d`, `nn.Dropout2d`",
    "TimeDistributed": "layers take any number of leading axes",
    "UpSampling[12]D": "`nn.Upsample`",
    "ZeroPadding[12]D": "`nn.ZeroPad1d`, `nn.ZeroPad2d`",
    "CategoryEncoding": "`tg.one_hot`",
    "TextVectorization|StringLookup|IntegerLookup": "`tg.text.Vocabulary`",
}
KERAS_LAYERS_NOT = {
    "FlaxLayer|JaxLayer|TFSMLayer|TorchModuleWrapper": "layers of other libraries; weights come by files",
    ".*3D(Transpose)?|.*3d": "three spatial axes, as with PyTorch",
    "ConvLSTM.*": "rare",
    "AlphaDropout": "goes with SELU only; rare",
    "ActivityRegularization": "a term of the loss",
    "SpectralNormalization": "a power iteration with a state, for GANs",
    "Discretization|Hashing|HashedCrossing": "of tables: `np.digitize(x, edges)` and the like, before training",
    "Random.*|RandAugment|AugMix|AutoContrast|CutMix|MixUp|Contrast.*|Equalization|Resizing|Solarization|MaxNum.*": (
        "pictures made from pictures: part of the data, not of networks"
    ),
    "MelSpectrogram|STFTSpectrogram": "complex numbers, which are not here",
}
KERAS_LOSSES = {
    "BinaryCrossentropy": "`nn.BCELoss`, `nn.BCEWithLogitsLoss`",
    "(Sparse)?CategoricalCrossentropy": "`nn.CrossEntropyLoss`, of labels or of probabilities",
    "CategoricalHinge": "`nn.MultiMarginLoss`",
    "CosineSimilarity": "`-np.mean(tg.cosine_similarity(x, y))`, `nn.CosineEmbeddingLoss`",
    "CTC": "`nn.CTCLoss`",
    "Hinge": "`nn.HingeLoss`",
    "SquaredHinge": "`np.mean(tg.relu(1 - target * x) ** 2)`",
    "Huber": "`nn.HuberLoss`, `nn.SmoothL1Loss`",
    "KLDivergence": "`nn.KLDivLoss`",
    "Loss": "any function `loss(prediction, target)`",
    "LogCosh": "`np.mean(np.log(np.cosh(x - y)))`",
    "MeanAbsoluteError": "`nn.L1Loss`",
    "MeanAbsolutePercentageError": "`100 * np.mean(np.abs((x - y) / y))`",
    "MeanSquaredError": "`nn.MSELoss`",
    "MeanSquaredLogarithmicError": "`np.mean((np.log1p(x) - np.log1p(y)) ** 2)`",
    "Poisson": "`nn.PoissonNLLLoss`",
    ".*Focal.*": "`np.mean((1 - np.exp(-e)) ** 2 * e)`, e being the cross entropy with `reduction='none'`",
    "Dice|Tversky": "`1 - 2 * np.sum(x * y) / (np.sum(x) + np.sum(y))`",
    "CategoricalGeneralizedCrossEntropy": "`np.mean((1 - p**0.7) / 0.7)`, p being the probability of the right class",
}
KERAS_LOSSES_NOT = {"Circle": "rare; `nn.TripletMarginLoss` and `nn.InfoNCELoss` are here"}
KERAS_OPTIMIZERS = {
    "Lamb": "`optim.LAMB`",
    "Nadam": "`optim.NAdam`",
    "MultiOptimizer": "groups: `optim.Adam([{'parameters': [...], 'learning_rate': 1e-4}, ...])`",
    "OptimizerMap": "the same",
}
KERAS_OPTIMIZERS_NOT = {
    "Adafactor": "as with PyTorch",
    "Ftrl": "for sparse linear models",
    "LossScaleOptimizer": "for half precision, which is trained in single here",
    "ScheduleFreeAdamW": "new; a formula of its own when it has settled",
}
HEAD = """# Coming from PyTorch or Keras

Written by `python examples/coming_from.py`, which looks at all names of the installed packages; do not edit.

Arguments have this library's words and order: `layers=`, `bias=`, `learning_rate=`; classes and features are on the
last axis, channels on the second one, batches always first. Weights go both ways by `nn.from_torch_state` and
`nn.to_torch_state`. In what follows `x` and `y` are arrays, `tg` is `tinygrad_mm`, and `nn`, `optim` and `functional`
are its parts."""
TAIL = """## Options that are not here

`proj_size` of LSTM, `kdim`, `vdim`, `add_bias_kv` and `add_zero_attn` of attention, running statistics of InstanceNorm,
bicubic and area modes of Upsample, CTC's targets in one long array, `max_norm`, `scale_grad_by_freq` and `sparse` of
Embedding. In Keras's terms: `return_sequences` is always so, `stateful` is the state that is returned and given."""


def told(
    what: str, names: Iterable[str], ours: Any, here: Mapping[str, str], absent: Mapping[str, str]
) -> tuple[str, str]:
    """(a row of a table that counts names, a part of the page that tells of each).

    Raises SystemExit for names that nothing tells of, and where a line tells of no name.
    """
    groups: dict[tuple[int, str], list[str]] = {}
    same, silent, idle = [], [], {**here, **absent}
    for name in sorted(set(names), key=str.lower):
        if hasattr(ours, name):
            same.append(name)
            continue
        for number, table in enumerate((here, absent)):
            pattern = next((p for p in table if re.fullmatch(p, name)), None)
            if pattern is not None:
                groups.setdefault((number, table[pattern]), []).append(name)
                idle.pop(pattern, None)
                break
        else:
            silent.append(name)
    if silent or idle:
        raise SystemExit(f"{what}: nothing is said of {silent}; nothing has the names {list(idle)}")
    lines = [f"## {what}", ""]
    if same:
        lines += [f"The same name: {', '.join(same)}.", ""]
    counts = [len(same)]
    for number, title in enumerate(("here", "not here, because")):
        rows = {text: found for (kind, text), found in groups.items() if kind == number}
        counts.append(sum(map(len, rows.values())))
        if rows:
            cells = ((", ".join(found), text.replace("|", "\\|")) for text, found in rows.items())
            lines += [f"| there | {title} |", "|---|---|", *(f"| {names} | {text} |" for names, text in cells), ""]
    row = f"| {what} | {sum(counts)} | {counts[0]} | {counts[1]} | {counts[2]} |"
    return row, "\n".join(lines)


def of_torch() -> list[tuple[str, str]]:
    """Tables of PyTorch's names."""
    import torch

    def classes(module: Any, base: type) -> list[str]:
        found = {name for name, a in vars(module).items() if isinstance(a, type) and issubclass(a, base)}
        return sorted(name for name in found if not name.startswith("_") and name not in ("Optimizer", "LRScheduler"))

    schedulers: Any = torch.optim.lr_scheduler
    schedules = classes(schedulers, schedulers.LRScheduler)
    inits = [name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    return [
        told("torch.nn", classes(torch.nn, torch.nn.Module), nn, TORCH_LAYERS, TORCH_LAYERS_NOT),
        told("torch.optim", classes(torch.optim, torch.optim.Optimizer), optim, TORCH_OPTIMIZERS, TORCH_OPTIMIZERS_NOT),
        told("torch.optim.lr_scheduler", schedules, None, TORCH_SCHEDULES, {}),
        told("torch.nn.init", inits, None, TORCH_INITS, {}),
    ]


def of_keras() -> list[tuple[str, str]]:
    """Tables of Keras's names."""
    from keras import layers, losses, optimizers

    def classes(module: Any) -> list[str]:
        return [name for name, a in vars(module).items() if isinstance(a, type) and name != "Optimizer"]

    return [
        told("keras.layers", classes(layers), nn, KERAS_LAYERS, KERAS_LAYERS_NOT),
        told("keras.losses", classes(losses), nn, KERAS_LOSSES, KERAS_LOSSES_NOT),
        told("keras.optimizers", classes(optimizers), optim, KERAS_OPTIMIZERS, KERAS_OPTIMIZERS_NOT),
    ]


def page() -> str:
    """The whole text. Raises ImportError without PyTorch or Keras."""
    parts = [*of_torch(), *of_keras()]
    versions = f"PyTorch {version('torch').split('+')[0]}, Keras {version('keras')}"
    columns = "| | names | here, same name | here, otherwise | not here |"
    counted = [f"Names in {versions}:", "", columns, "|---|---|---|---|---|", *(row for row, _ in parts)]
    return "\n".join([HEAD, "", *counted, "", *(text for _, text in parts), TAIL, ""])


def main() -> None:
    try:
        text = page()
    except (ImportError, PackageNotFoundError) as error:
        sys.exit(f"coming_from.py counts the names of PyTorch and Keras ({error}): pip install torch keras")
    PAGE.write_text(text, "utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()

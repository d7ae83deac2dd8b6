"""How much work the networks of published results are: makes bench/gpubench/data/networks.csv.

    python benchmarks/network_work.py [--check]

Layer by layer from the papers' tables, by arithmetic alone: operations of the products (a
multiply-add is two), elements that each layer reads and writes where every operation is a kernel of
its own, as frameworks run them by default, parameters, and kernels of a forward pass.
"""

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

DATA = Path(__file__).parents[1] / "bench" / "gpubench" / "data" / "networks.csv"


@dataclass
class Total:
    """What all layers add up to."""

    multiply_adds: float = 0.0
    elements: float = 0.0
    parameters: float = 0.0
    layers: int = 0

    def add(self, elements: float, multiply_adds: float = 0.0, parameters: float = 0.0) -> None:
        """One layer."""
        self.multiply_adds += multiply_adds
        self.elements += elements
        self.parameters += parameters
        self.layers += 1


@dataclass(frozen=True)
class Image:
    """The activations of one image at some place of a network; methods are layers."""

    total: Total
    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Its elements."""
        return self.channels * self.height * self.width

    def _shaped(
        self, channels: int, kernel: Sequence[int], stride: int, pad: Sequence[int]
    ) -> "Image":
        height = (self.height + 2 * pad[0] - kernel[0]) // stride + 1
        width = (self.width + 2 * pad[1] - kernel[1]) // stride + 1
        return replace(self, channels=channels, height=height, width=width)

    def conv(
        self,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        valid: bool = False,
        norm: bool = True,
        relu: bool = True,
    ) -> "Image":
        """Convolution, batch normalisation and ReLU, padded to keep the size unless ``valid``."""
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (0, 0) if valid else (k[0] // 2, k[1] // 2)
        out = self._shaped(channels, k, stride, pad)
        weights = channels * self.channels // groups * k[0] * k[1]
        bias = 0 if norm else channels
        macs = weights * out.height * out.width
        self.total.add(self.size + out.size, macs, weights + bias)
        if norm:
            self.total.add(2 * out.size, 0, 2 * channels)
        return out.relu() if relu else out

    def relu(self) -> "Image":
        """An element-wise operation."""
        self.total.add(2 * self.size)
        return self

    def norm(self) -> "Image":
        """Batch normalisation and ReLU in front of a convolution."""
        self.total.add(2 * self.size, 0, 2 * self.channels)
        return self.relu()

    def pool(self, kernel: int, stride: int, *, valid: bool = False) -> "Image":
        """Largest or mean of a window."""
        pad = 0 if valid else kernel // 2
        out = self._shaped(self.channels, (kernel, kernel), stride, (pad, pad))
        self.total.add(self.size + out.size)
        return out

    def mean(self) -> "Image":
        """Over all places."""
        self.total.add(self.size + self.channels)
        return replace(self, height=1, width=1)

    def linear(self, features: int, *, relu: bool = False) -> "Image":
        """A dense layer over everything."""
        self.total.add(self.size + features, self.size * features, (self.size + 1) * features)
        out = replace(self, channels=features, height=1, width=1)
        return out.relu() if relu else out

    def plus(self, other: "Image") -> "Image":
        """A residual's sum, and the ReLU behind it."""
        if other.size != self.size:
            raise ValueError(f"can't add {other} to {self}")
        self.total.add(3 * self.size)
        return self

    def join(self, *branches: "Image") -> "Image":
        """Channels of all branches behind each other; the copy reads and writes each."""
        if len({(one.height, one.width) for one in branches}) != 1:
            raise ValueError(f"can't join {branches}")
        out = replace(branches[0], channels=sum(one.channels for one in branches))
        self.total.add(2 * out.size)
        return out


def resnet(
    image: Image, blocks: Sequence[int], *, bottleneck: bool, widen: int = 1, classes: int = 1000
) -> Image:
    """He et al. 2015 (arXiv:1512.03385), table 1; wide: Zagoruyko 2016 (arXiv:1605.07146).

    Images of 32 × 32 are too small for the first two layers, as programs for CIFAR have it.
    """
    x = image.conv(64, 3) if image.height == 32 else image.conv(64, 7, 2).pool(3, 2)
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        outer = 4 * inner if bottleneck else inner
        for block in range(count):
            stride = 2 if stage and not block else 1
            shortcut = x
            if stride != 1 or x.channels != outer:
                shortcut = x.conv(outer, 1, stride, relu=False)
            if bottleneck:
                y = x.conv(widen * inner).conv(widen * inner, 3, stride).conv(outer, relu=False)
            else:
                y = x.conv(inner, 3, stride).conv(inner, 3, relu=False)
            x = y.plus(shortcut).relu()
    return x.mean().linear(classes)


def vgg(image: Image, convolutions: Sequence[int]) -> Image:
    """Simonyan and Zisserman 2014 (arXiv:1409.1556), table 1: D and E."""
    x = image
    for channels, count in zip((64, 128, 256, 512, 512), convolutions, strict=True):
        for _ in range(count):
            x = x.conv(channels, 3, norm=False)
        x = x.pool(2, 2, valid=True)
    return x.linear(4096, relu=True).linear(4096, relu=True).linear(1000)


def alexnet(image: Image) -> Image:
    """Krizhevsky 2014 (arXiv:1404.5997), the version of one GPU."""
    x = replace(image, height=227, width=227).conv(64, 11, 4, valid=True, norm=False)
    x = x.pool(3, 2, valid=True).conv(192, 5, norm=False).pool(3, 2, valid=True)
    x = x.conv(384, 3, norm=False).conv(256, 3, norm=False).conv(256, 3, norm=False)
    x = x.pool(3, 2, valid=True)
    return x.linear(4096, relu=True).linear(4096, relu=True).linear(1000)


def squeezenet(image: Image) -> Image:
    """Iandola et al. 2016 (arXiv:1602.07360), table 1."""
    x = image.conv(96, 7, 2, valid=True, norm=False).pool(3, 2, valid=True)
    for number, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        s = x.conv(squeeze, norm=False)
        x = s.join(s.conv(4 * squeeze, norm=False), s.conv(4 * squeeze, 3, norm=False))
        if number in (4, 8):
            x = x.pool(3, 2, valid=True)
    return x.conv(1000, norm=False).mean()


def densenet121(image: Image) -> Image:
    """Huang et al. 2016 (arXiv:1608.06993), table 1, growth 32."""
    x = image.conv(64, 7, 2).pool(3, 2)
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            new = x.norm().conv(128).conv(32, 3, norm=False, relu=False)
            x = x.join(x, new)
        if stage < 3:
            x = x.norm().conv(x.channels // 2, norm=False, relu=False).pool(2, 2, valid=True)
    return x.norm().mean().linear(1000)


def mobilenet_v2(image: Image) -> Image:
    """Sandler et al. 2018 (arXiv:1801.04381), table 2."""
    x = image.conv(32, 3, 2)
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, channels, count, first in rows:
        for block in range(count):
            inner = expand * x.channels
            y = x.conv(inner) if expand > 1 else x
            y = y.conv(inner, 3, first if not block else 1, groups=inner).conv(channels, relu=False)
            x = y.plus(x) if y.size == x.size else y
    return x.conv(1280).mean().linear(1000)


def googlenet(image: Image) -> Image:
    """Szegedy et al. 2014 (arXiv:1409.4842), table 1, without the auxiliary classifiers."""
    x = image.conv(64, 7, 2, norm=False).pool(3, 2).conv(64, norm=False)
    x = x.conv(192, 3, norm=False).pool(3, 2)
    rows = [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64)]
    rows += [(160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64)]
    rows += [(256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128)]
    rows += [(384, 192, 384, 48, 128, 128)]
    for number, (a, b1, b2, c1, c2, d) in enumerate(rows):
        if number in (2, 7):
            x = x.pool(3, 2)
        x = x.join(
            x.conv(a, norm=False),
            x.conv(b1, norm=False).conv(b2, 3, norm=False),
            x.conv(c1, norm=False).conv(c2, 5, norm=False),
            x.pool(3, 1).conv(d, norm=False),
        )
    return x.mean().linear(1000)


def inception3(image: Image) -> Image:
    """Szegedy et al. 2015 (arXiv:1512.00567), table 1 and figures 5 to 7, 10."""
    x = replace(image, height=299, width=299).conv(32, 3, 2, valid=True).conv(32, 3, valid=True)
    x = x.conv(64, 3).pool(3, 2, valid=True).conv(80, valid=True).conv(192, 3, valid=True)
    x = x.pool(3, 2, valid=True)
    for pooled in (32, 64, 64):
        three = x.conv(64).conv(96, 3).conv(96, 3)
        x = x.join(x.conv(64), x.conv(48).conv(64, 5), three, x.pool(3, 1).conv(pooled))
    deep = x.conv(64).conv(96, 3).conv(96, 3, 2, valid=True)
    x = x.join(x.conv(384, 3, 2, valid=True), deep, x.pool(3, 2, valid=True))
    for c in (128, 160, 160, 192):
        seven = x.conv(c).conv(c, (1, 7)).conv(192, (7, 1))
        double = x.conv(c).conv(c, (7, 1)).conv(c, (1, 7)).conv(c, (7, 1)).conv(192, (1, 7))
        x = x.join(x.conv(192), seven, double, x.pool(3, 1).conv(192))
    seven = x.conv(192).conv(192, (1, 7)).conv(192, (7, 1)).conv(192, 3, 2, valid=True)
    x = x.join(x.conv(192).conv(320, 3, 2, valid=True), seven, x.pool(3, 2, valid=True))
    for _ in range(2):
        b, c = x.conv(384), x.conv(448).conv(384, 3)
        split = [one.conv(384, shape) for one in (b, c) for shape in ((1, 3), (3, 1))]
        x = x.join(x.conv(320), *split, x.pool(3, 1).conv(192))
    return x.mean().linear(1000)


def inception4(image: Image) -> Image:
    """Szegedy et al. 2016 (arXiv:1602.07261), figures 3 to 9."""
    x = replace(image, height=299, width=299).conv(32, 3, 2, valid=True).conv(32, 3, valid=True)
    x = x.conv(64, 3)
    x = x.join(x.pool(3, 2, valid=True), x.conv(96, 3, 2, valid=True))
    long = x.conv(64).conv(64, (7, 1)).conv(64, (1, 7)).conv(96, 3, valid=True)
    x = x.join(x.conv(64).conv(96, 3, valid=True), long)
    x = x.join(x.conv(192, 3, 2, valid=True), x.pool(3, 2, valid=True))
    for _ in range(4):
        three = x.conv(64).conv(96, 3).conv(96, 3)
        x = x.join(x.pool(3, 1).conv(96), x.conv(96), x.conv(64).conv(96, 3), three)
    deep = x.conv(192).conv(224, 3).conv(256, 3, 2, valid=True)
    x = x.join(x.pool(3, 2, valid=True), x.conv(384, 3, 2, valid=True), deep)
    for _ in range(7):
        seven = x.conv(192).conv(224, (1, 7)).conv(256, (7, 1))
        double = x.conv(192).conv(192, (1, 7)).conv(224, (7, 1)).conv(224, (1, 7))
        x = x.join(x.pool(3, 1).conv(128), x.conv(384), seven, double.conv(256, (7, 1)))
    seven = x.conv(256).conv(256, (1, 7)).conv(320, (7, 1)).conv(320, 3, 2, valid=True)
    x = x.join(x.pool(3, 2, valid=True), x.conv(192).conv(192, 3, 2, valid=True), seven)
    for _ in range(3):
        b, c = x.conv(384), x.conv(384).conv(448, (1, 3)).conv(512, (3, 1))
        split = [one.conv(256, shape) for one in (b, c) for shape in ((1, 3), (3, 1))]
        x = x.join(x.pool(3, 1).conv(256), x.conv(256), *split)
    return x.mean().linear(1000)


def transformer(
    layers: int, hidden: int, heads: int, sequence: int, vocabulary: int, *, modern: bool = False
) -> Total:
    """An encoder as in Devlin et al. 2018 (arXiv:1810.04805), a sequence of ``sequence`` tokens.

    ``modern`` ones have no dropout, and one kernel for attention, which keeps the scores to itself.
    """
    total = Total(parameters=vocabulary * hidden)
    states, scores = sequence * hidden, heads * sequence * sequence
    for _ in range(layers):
        for _ in range(4):  # query, key, value and what follows attention
            total.add(2 * states, states * hidden, hidden**2 + hidden)
        if modern:
            total.add(4 * states, 2 * states * sequence)
        else:
            total.add(2 * states + scores, states * sequence)
            for _ in range(4):  # scale, mask, softmax and dropout
                total.add(2 * scores)
            total.add(scores + 2 * states, states * sequence)
        total.add(5 * states, 4 * states * hidden, 4 * hidden**2 + 4 * hidden)
        total.add(8 * states)
        total.add(5 * states, 4 * states * hidden, 4 * hidden**2 + hidden)
        around = (3, 2, 3, 2) if modern else (2, 3, 2, 2, 3, 2)
        for elements in around:  # dropout, sum and norm, twice
            total.add(elements * states, 0, 4 * hidden / len(around))
    return total


def vit(layers: int, hidden: int, heads: int) -> Total:
    """Dosovitskiy et al. 2020 (arXiv:2010.11929), table 1: 224 × 224 in patches of 16 × 16."""
    patches, patch = 14 * 14, 3 * 16 * 16
    total = transformer(layers, hidden, heads, patches + 1, patches + 1, modern=True)
    total.add(patches * (patch + hidden), patches * patch * hidden, (patch + 1) * hidden)
    total.add(2 * (patches + 1) * hidden, 0, 2 * hidden)
    total.add(hidden + 1000, 1000 * hidden, 1000 * (hidden + 1))
    return total


def gpt2(layers: int, hidden: int, heads: int, sequence: int) -> Total:
    """Radford et al. 2019, table 2: a sequence with the loss of each of its tokens.

    Only scores that look back are computed. The last layer has the embedding's weights.
    """
    vocabulary = 50_304  # 50257, padded
    total = transformer(layers, hidden, heads, sequence, vocabulary + sequence, modern=True)
    total.multiply_adds -= layers * sequence * sequence * hidden
    total.add(2 * sequence * hidden, 0, 2 * hidden)
    logits = sequence * vocabulary
    total.add(sequence * hidden + logits, logits * hidden)
    total.add(2 * logits)
    return total


def convolutional(network: Callable[[Image], Image], size: int = 224) -> Total:
    """A network for images of ``size`` × ``size``."""
    total = Total()
    network(Image(total, 3, size, size))
    return total


COLUMNS = (
    *("name", "pattern", "operation", "item", "forward_gflop", "elements_moved_m"),
    *("parameters_m", "layers", "source"),
)
RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
RESNETS[152] = (3, 8, 36, 3)


def mixed(one: Total, other: Total) -> Total:
    """Half the operations of each, scaled to those of ``one``."""
    share = 0.5 * one.multiply_adds / other.multiply_adds
    return Total(
        one.multiply_adds,
        0.5 * one.elements + share * other.elements,
        0.5 * one.parameters + share * other.parameters,
        round(0.5 * one.layers + share * other.layers),
    )


def _source(make: Callable[..., object]) -> str:
    """The paper that a function names first."""
    return str(make.__doc__).partition(",")[0]


def networks() -> list[tuple[str, str, str, str, Total, str]]:
    """Name, pattern, operation, item, work and source, in the order in which patterns are tried."""
    wide = convolutional(lambda x: resnet(x, RESNETS[50], bottleneck=True, widen=2))
    found = [("wide_resnet50_2", "wide_?resnet", wide, resnet)]
    small = convolutional(lambda x: resnet(x, RESNETS[50], bottleneck=True, classes=10), 32)
    found.append(("resnet50_32px", "resnet50_32px", small, resnet))
    for depth in (152, 101, 18, 34, 50):
        pattern = f"resnet[-_]?(v[12]_)?{depth}" + (
            "|resnet|resnext|rn50|ssd" if depth == 50 else ""
        )
        blocks, deep = RESNETS[depth], depth >= 50
        total = convolutional(lambda x, b=blocks, d=deep: resnet(x, b, bottleneck=d))
        found.append((f"resnet{depth}", pattern, total, resnet))
    found += [
        ("vgg19", "vgg[-_]?19", convolutional(lambda x: vgg(x, (2, 2, 4, 4, 4))), vgg),
        ("vgg16", "vgg", convolutional(lambda x: vgg(x, (2, 2, 3, 3, 3))), vgg),
        ("alexnet", "alexnet", convolutional(alexnet), alexnet),
        ("squeezenet1_0", "squeezenet", convolutional(squeezenet), squeezenet),
        ("densenet121", "densenet", convolutional(densenet121), densenet121),
        ("mobilenet_v2", "mobilenet|efficientnet", convolutional(mobilenet_v2), mobilenet_v2),
        ("inception3", "inception_?v?3", convolutional(inception3), inception3),
        ("inception4", "inception_?v?4", convolutional(inception4), inception4),
        ("inceptionv1", "inception|googlenet", convolutional(googlenet), googlenet),
    ]
    rows = [
        (name, pattern, "cnn", "image", total, _source(make))
        for name, pattern, total, make in found
    ]
    source = "Devlin et al. 2018 (arXiv:1810.04805)"
    base = transformer(12, 768, 12, 384, 30_522)
    large = transformer(24, 1024, 16, 384, 30_522)
    words = "bert|gpt|llama|llm|transformer|lora|whisper|reformer|mistral|qwen|dinov2|opus"
    words += "|(?<![a-z])(t5|vit)"  # which are within other names: darknet53, resnest50
    mix = mixed(convolutional(lambda x: resnet(x, RESNETS[50], bottleneck=True)), large)
    images = [
        (f"vit_{name}", f"vit_{name}_patch16", "transformer", "image", vit(*shape), _source(vit))
        for name, shape in (("small", (12, 384, 6)), ("base", (12, 768, 12)))
    ]
    tokens = gpt2(12, 768, 12, 1024)
    return [
        *rows,
        *images,
        ("gpt2_124m", "gpt2_124m_seq1024", "transformer", "sequence", tokens, _source(gpt2)),
        ("bert_base", "bert[-_]?base|distilbert", "transformer", "sequence", base, source),
        ("bert_large", words, "transformer", "sequence", large, source),
        ("default mix", "", "other", "item", mix, "half ResNet-50's operations half BERT-large's"),
    ]


def text() -> str:
    """The data file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, pattern, operation, item, total, source in networks():
        numbers = (2e-9 * total.multiply_adds, 1e-6 * total.elements, 1e-6 * total.parameters)
        rounded = [f"{number:.4g}" for number in numbers]
        writer.writerow([name, pattern, operation, item, *rounded, total.layers, source])
    return out.getvalue()


def main() -> None:
    """Write the file, or say whether it is what would be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if it differs")
    if parser.parse_args().check:
        sys.exit(DATA.read_text(encoding="utf-8") != text())
    DATA.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Hold `gpubench.job` against torch: the same training steps on fake tensors.

    python benchmarks/validate_memory.py [--quick]

Prints two tables in Markdown: the modelled peak of memory, FLOPs and kernel launches of BERT over
batch, sequence, precision and checkpointing, then of other models and methods, each beside what
the fake step took; and a third of what others have published of whole fine-tuning runs, beside
the model. Exits with 1 if some peak is further than 15 % from the fake step's. It takes about
MINUTES on two processor cores, no GPU and 4 GB of memory; `--quick` leaves most of BERT out.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from gpubench import plugins
from gpubench.job import Job, get_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))
import fake_memory

TOLERANCE = 0.15
GIB = 2**30


def bert(*, quick: bool) -> Iterator[Job]:
    """The grid of the gate."""
    for name, batch, sequence, precision, checkpointing in product(
        ("bert-base", "bert-large"),
        (8, 64) if quick else (8, 16, 32, 64),
        (128, 512),
        ("fp32", "bf16"),
        (False, True),
    ):
        model = get_model(name)
        yield Job(
            model,
            precision=precision,
            batch=batch,
            sequence=sequence,
            checkpointing=checkpointing,
        )


def others() -> Iterator[Job]:
    """One model of each family, and each method."""
    for name, method, optimizer, batch, sequence, precision, checkpointing in (
        ("bert-base", "full", "sgd", 8, 128, "fp32", False),
        ("bert-base", "lora", "adamw", 16, 128, "bf16", False),
        ("gpt2", "full", "adamw", 8, 512, "fp32", False),
        ("gpt2", "full", "adamw", 8, 512, "bf16", False),
        ("gpt2-medium", "full", "adamw", 4, 1024, "bf16", True),
        ("gpt2-medium", "lora", "adamw", 4, 1024, "bf16", False),
        ("llama-1b", "full", "adamw", 1, 512, "bf16", False),
        ("llama-1b", "full", "adamw", 8, 512, "fp32", False),
        ("llama-1b", "lora", "adamw", 4, 512, "bf16", False),
        ("llama-1b", "lora", "adamw", 4, 512, "bf16", True),
        ("llama-1b", "qlora", "adamw", 4, 512, "bf16", False),
        ("llama-8b", "qlora", "adamw", 1, 2048, "bf16", True),
        ("llama-8b", "lora", "adamw", 1, 512, "bf16", False),
        ("mistral-7b", "qlora", "adamw", 2, 512, "bf16", False),
        ("qwen2.5-7b", "lora", "adamw", 1, 1024, "bf16", True),
        ("qwen3-8b", "lora", "adamw", 1, 512, "bf16", False),
        ("phi-3-mini", "qlora", "adamw", 1, 1024, "bf16", False),
    ):
        yield Job(get_model(name), method, precision, optimizer, batch, sequence, checkpointing)


def configuration(name: str) -> dict[str, object]:
    """A shipped model's keys for transformers."""
    ours = ("summary", "source", "published_parameters")
    content = plugins.read_toml(plugins.find("models", name, ".toml"))
    return {key: value for key, value in content.items() if key not in ours}


def table(title: str, jobs: Iterator[Job]) -> float:
    """Print one table; the largest relative error of a peak."""
    print(f"\n{title}\n")
    print("| job | modelled | fake step | error | FLOPs | launches | most at |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    worst = 0.0
    for job in jobs:
        fake = fake_memory.measure(configuration(job.model.name), job)
        memory = job.memory()
        error = memory.tensor_bytes / fake.peak_bytes - 1
        worst = max(worst, abs(error))
        words = [job.model.name, job.method, job.precision, f"{job.batch} × {job.sequence}"]
        words += ["checkpointing"] if job.checkpointing else []
        words += [job.optimizer] if job.optimizer != "adamw" else []
        print(
            f"| {' '.join(words)} | {memory.tensor_bytes / GIB:.2f} GiB "
            f"| {fake.peak_bytes / GIB:.2f} GiB | {error:+.1%} "
            f"| {job.work().flops / fake.flops - 1:+.1%} "
            f"| {job.launches:.0f} / {fake.kernels} | {memory.moment} |",
            flush=True,
        )
    return worst


def main() -> int:
    """Print the tables; 1 if the model is off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only BERT's corners")
    quick = parser.parse_args().quick
    worst = max(table("BERT", bert(quick=quick)), table("Others", others()))
    print(f"\nlargest error of a peak: {worst:.1%}")
    return 1 if worst > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())

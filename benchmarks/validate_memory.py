"""Hold `gpubench.job` against torch: the same training steps on fake tensors.

    python benchmarks/validate_memory.py [--quick]

Prints three tables in Markdown: the modelled peak of memory, FLOPs and kernel launches of BERT over
batch, sequence, precision and checkpointing, with a masked-language head; of BERT with a head of
classes; then of other models and methods, each beside what the fake step took; and a fourth of
what others have published of whole fine-tuning runs, beside the model. Exits with 1 if some peak
is further than 15 % from the fake step's. It takes ten to twenty minutes on two processor cores,
no GPU and 4 GB of memory; `--quick` leaves most of BERT out.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, product
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
            head="lm",
        )


def classes() -> Iterator[Job]:
    """BERT with the head that it gets where none is named."""
    for method, precision, batch, sequence, checkpointing in (
        ("full", "fp32", 8, 128, False),
        ("full", "fp32", 64, 512, False),
        ("full", "fp32", 64, 512, True),
        ("full", "bf16", 64, 512, False),
        ("full", "bf16", 64, 512, True),
        ("lora", "bf16", 64, 512, False),
        ("lora", "bf16", 64, 512, True),
        ("qlora", "bf16", 64, 512, False),
    ):
        model = get_model("bert-base")
        yield Job(model, method, precision, "adamw", batch, sequence, checkpointing)


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
        yield Job(
            get_model(name), method, precision, optimizer, batch, sequence, checkpointing, head="lm"
        )


# (model, method, precision, batch, sequence, checkpointing, rank): GB, and who says so. Each ran
# other code than the modelled: see docs/memory.md.
QWEN = "QwenLM/Qwen README.md, Profiling of Memory and Speed; A100 80 GB, PyTorch 2.0"
LITGPT = "Lightning-AI/litgpt tutorials/resource-tables.md; A100 40 GB, PyTorch 2.1"
TORCHTUNE = "pytorch/torchtune README.md, September 2024; RTX 4090, compiled"
PUBLISHED = (
    *(
        (("qwen-7b", "lora", "bf16", 1, sequence, True, 64), size, QWEN)
        for sequence, size in zip(
            (256, 512, 1024, 2048, 4096, 8192), (20.1, 20.4, 21.5, 23.8, 29.7, 36.6), strict=True
        )
    ),
    *(
        (("qwen-7b", "qlora", "fp16", 1, sequence, True, 64), size, QWEN)
        for sequence, size in zip(
            (256, 512, 1024, 2048, 4096, 8192), (11.5, 11.5, 12.3, 13.9, 16.9, 23.5), strict=True
        )
    ),
    (("qwen-7b", "full", "bf16", 1, 256, True, 1), 139.2, QWEN + ", two cards together"),
    (("llama-2-7b", "lora", "bf16", 1, 1304, False, 8), 21.30, LITGPT),
    (("llama-2-7b", "lora", "bf16", 2, 1304, False, 8), 29.07, LITGPT),
    (("llama-2-7b", "qlora", "bf16", 1, 1304, False, 8), 13.84, LITGPT),
    (("llama-2-13b", "lora", "bf16", 1, 1304, False, 8), 38.12, LITGPT),
    (("llama-2-13b", "qlora", "bf16", 1, 1304, False, 8), 22.55, LITGPT),
    (("llama-8b", "lora", "bf16", 2, 2048, True, 8), 16.2 * 2**30 / 1e9, TORCHTUNE),
    (("llama-8b", "qlora", "bf16", 2, 2048, True, 8), 7.4 * 2**30 / 1e9, TORCHTUNE),
)


def published() -> None:
    """Print what others measured beside what the model says, in units of 10⁹ bytes."""
    print("\nPublished\n")
    print("| job | published | modelled tensors | modelled in all | source |")
    print("| --- | ---: | ---: | ---: | --- |")
    for (name, method, precision, batch, sequence, checkpointing, rank), size, source in PUBLISHED:
        job = Job(get_model(name), method, precision, "adamw", batch, sequence, checkpointing, rank)
        memory = job.memory()
        print(
            f"| {words(job)} | {size:.1f} GB | {memory.tensor_bytes / 1e9:.1f} GB "
            f"| {memory.total_bytes / 1e9:.1f} GB | {source} |"
        )


def flops_error(job: Job) -> float:
    """Relative error of the FLOPs, at a size at which unfused attention is quickly faked."""
    small = replace(job, batch=1, sequence=128)
    fake = fake_memory.measure(configuration(job.model.name), small, attention="math")
    return small.work().flops / fake.flops - 1


def words(job: Job) -> str:
    """A job in a cell."""
    parts = [job.model.name, job.method, job.precision, f"{job.batch} × {job.sequence}"]
    parts += ["checkpointing"] if job.checkpointing else []
    parts += [job.optimizer] if job.optimizer != "adamw" else []
    return " ".join(parts)


def configuration(name: str) -> dict[str, object]:
    """A shipped model's keys for transformers."""
    ours = ("summary", "source", "published_parameters")
    content = plugins.read_toml(plugins.find("models", name, ".toml"))
    return {key: value for key, value in content.items() if key not in ours}


def faked(jobs: Iterator[Job]) -> Iterator[tuple[Job, fake_memory.Measured]]:
    """Each job with its fake step; neighbours that train the same weights share a model."""
    for _, group in groupby(jobs, key=lambda job: (job.model, job.method, job.optimizer)):
        alike = list(group)
        yield from zip(
            alike, fake_memory.measure_all(configuration(alike[0].model.name), alike), strict=True
        )


def table(title: str, jobs: Iterator[Job], *, flops: bool) -> float:
    """Print one table; the largest relative error of a peak."""
    print(f"\n{title}\n")
    print("| job | modelled | fake step | error | FLOPs | launches | most at |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    worst = 0.0
    for job, fake in faked(jobs):
        memory = job.memory()
        error = memory.tensor_bytes / fake.peak_bytes - 1
        worst = max(worst, abs(error))
        print(
            f"| {words(job)} | {memory.tensor_bytes / GIB:.2f} GiB "
            f"| {fake.peak_bytes / GIB:.2f} GiB | {error:+.1%} "
            f"| {f'{flops_error(job):+.2%}' if flops else ''} "
            f"| {job.model_launches / fake.kernels - 1:+.0%} | {memory.moment} |",
            flush=True,
        )
    return worst


def main() -> int:
    """Print the tables; 1 if the model is off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only BERT's corners")
    quick = parser.parse_args().quick
    worst = max(
        table("BERT, masked-language head", bert(quick=quick), flops=False),
        table("BERT, head of two classes", classes(), flops=True),
        table("Others", others(), flops=True),
    )
    published()
    print(f"\nlargest error of a peak: {worst:.1%}")
    return 1 if worst > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())

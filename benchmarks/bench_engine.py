"""How fast does the batching engine write, and what would `model.generate` on whole histories take?

    python benchmarks/bench_engine.py --threads 2 --write

The work of one GRPO step of the quickstart: conversations in groups of 8 with the same prompt, several
turns each, every turn reading a tool result. Both write exactly `--new` ids a turn, so their work is equal.
Prints JSON; `--write` also keeps it in `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - a benchmark of torch code
import transformers  # noqa: TID253 - as above

from cacherl.adapters.transformers_engine import TransformersEngine

STOP = frozenset({0, 1})


def model_of(args: argparse.Namespace) -> Any:
    """Return a Qwen3 with random weights; what it says does not matter, only how long it takes."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=2048,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 7 // 3,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
    )
    model = transformers.Qwen3ForCausalLM(config).eval()
    return model.to(getattr(torch, args.dtype)).to(args.device)


def work_of(args: argparse.Namespace) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Return a prompt a conversation, and a suffix a conversation and turn, of 2/3 to 4/3 `--suffix` ids."""
    draw = random.Random(0)  # noqa: S311 - no secret

    def ids(count: int) -> list[int]:
        return [draw.randrange(2, 2048) for _ in range(count)]

    tools = ids(int(args.prompt * args.common))
    prompts: list[list[int]] = []
    while len(prompts) < args.conversations:
        prompts += [tools + ids(args.prompt - len(tools))] * args.group
    lengths = (args.suffix * 2 // 3, args.suffix * 4 // 3)
    suffixes = [[ids(draw.randint(*lengths)) for _ in range(args.turns)] for _ in prompts]
    return prompts, suffixes


async def run_engine(
    engine: TransformersEngine, args: argparse.Namespace, work: Any
) -> tuple[float, float]:
    """Return the seconds until all are done, and the longest time the event loop stood still."""
    prompts, suffixes = work
    blocked = 0.0

    async def conversation(number: int) -> None:
        name, stream = f"c{number}", list(prompts[number])
        engine.open(name, seed=number)
        for suffix in suffixes[number]:
            said = await engine.generate(
                name, stream, max_new=args.new, min_new=args.new, stop_ids=STOP
            )
            stream += [*said.ids, *suffix]
        engine.close(name)

    async def heartbeat() -> None:
        nonlocal blocked
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            blocked, last = max(blocked, now - last), now

    started = time.perf_counter()
    beat = asyncio.ensure_future(heartbeat())
    await asyncio.gather(*(conversation(i) for i in range(len(prompts))))
    beat.cancel()
    return time.perf_counter() - started, blocked


def run_generate(model: Any, args: argparse.Namespace, work: Any) -> float:
    """Return the seconds of `model.generate` with DynamicCache, reading each history again every turn."""
    prompts, suffixes = work
    streams = [list(prompt) for prompt in prompts]
    started = time.perf_counter()
    for turn in range(args.turns):
        width = max(map(len, streams))
        padded = torch.tensor([[0] * (width - len(s)) + s for s in streams], device=args.device)
        mask = torch.tensor(
            [[0] * (width - len(s)) + [1] * len(s) for s in streams], device=args.device
        )
        with torch.inference_mode():
            out = model.generate(
                padded,
                attention_mask=mask,
                do_sample=True,
                min_new_tokens=args.new,
                max_new_tokens=args.new,
                pad_token_id=0,
                eos_token_id=[0, 1],
            )
        for number, stream in enumerate(streams):
            stream += [*out[number, width:].tolist(), *suffixes[number][turn]]
    return time.perf_counter() - started


def commit() -> str:
    """Return the commit that was measured."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],  # noqa: S607 - git of the developer
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Return the processor's name and the number of its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()} x{len(models) or 1}"


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=500)
    parser.add_argument(
        "--common", type=float, default=0.0, help="share of the prompt all have alike"
    )
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--new", type=int, default=50)
    parser.add_argument("--suffix", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-generate", action="store_true", help="leave the comparison out")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model, work = model_of(args), work_of(args)
    runs = []
    blocked = 0.0
    processor_s = time.process_time()
    for _ in range(args.repeats):
        seconds, stood = asyncio.run(run_engine(TransformersEngine(model), args, work))
        runs.append(seconds)
        blocked = max(blocked, stood)
    # Wall seconds rise when others use the machine; with one thread, processor seconds hardly do.
    processor_s = (time.process_time() - processor_s) / args.repeats
    best, written = min(runs), args.conversations * args.turns * args.new
    result: dict[str, Any] = {
        "what": "engine",
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "settings": {k: v for k, v in vars(args).items() if k not in ("write", "no_generate")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "engine_s": [round(s, 2) for s in runs],
        "written_tokens_per_s": round(written / best),
        "engine_processor_s": round(processor_s, 2),
        "event_loop_blocked_s": round(blocked, 2),
        "load_average": os.getloadavg()[0],
    }
    if not args.no_generate:
        before = time.process_time()
        result["generate_s"] = round(run_generate(model, args, work), 2)
        result["generate_processor_s"] = round(time.process_time() - before, 2)
        result["times_faster"] = round(result["generate_processor_s"] / processor_s, 1)
    text = json.dumps(result, indent=1)
    print(text)
    if args.write:
        name = f"engine-{args.device}-{args.dtype}-{args.conversations}x{args.turns}.json"
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text + "\n")


if __name__ == "__main__":
    main()

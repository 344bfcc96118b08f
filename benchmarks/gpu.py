"""Everything that only a GPU can show, in one command and in less than nine minutes: a table, and a JSON file.

*training*: images a second of MoCo v2's supernet pre-training in the paper's space (DATA, Table 1) at 224 pixels, with
64 images as on each of the paper's GPUs: the naive loop, ours with views by worker processes, and with their colours on
the device; the part of the fastest 3x3 convolution is that of all multiply-accumulates of the networks. *relation*: see
benchmarks/relation.py. *search*: one of the 27 parts of the paper's space that share a C2, and from it the time of all
85,293 networks, by the multiply-accumulates of the prefix tree. *precision*: see benchmarks/search_approximations.py,
with the supernet that comes with the package on drawn images. *tests*: those that need a GPU.

Every part is a process of its own, so that one that fails leaves the others; what it said is in the JSON file.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --out rehearsal.json --rehearse
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from data_plugin.utils.provenance import device_name, installed_versions

SECONDS = 540
"""Within which everything ends; a part that would last longer is stopped."""

Row = dict[str, Any]


def training(device: torch.device, rehearse: bool) -> list[Row]:
    import pretrain

    from data_plugin.space.search_space import SPACES

    small = ["--space", "micro", "--image-size", "32", "--batch-size", "4", "--steps", "1", "--workers", "0"]
    paper = ["--space", "data", "--image-size", "224", "--batch-size", "64", "--steps", "20", "--workers", "14"]
    args = pretrain.parser().parse_args(small if rehearse else paper)
    args.device, args.precision = device.type, "bf16"
    peak = pretrain.convolution_peak(SPACES[args.space](), args.image_size, args.batch_size, device)
    rows = [{"loop": "a 3x3 convolution alone", "operations/s": peak}]
    with TemporaryDirectory() as folder:
        args.data = pretrain.draw_images(Path(folder), args)
        for name, loop, args.views_on in (
            ("naive", "naive", "workers"),
            ("ours, views by workers", "ours", "workers"),
            ("ours, colours on the device", "ours", "device"),
        ):
            found = pretrain.measure(args, loop, "mocov2")
            rows.append({"loop": name, **found, "of the convolution": found["operations/s"] / peak})
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def relation(device: torch.device, rehearse: bool) -> list[Row]:
    import relation as of_maps

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1e9
    ways = [way for way in of_maps.WAYS if way != "kernel" or device.type == "cuda"]
    rows: list[Row] = []
    for positions in (100, 300) if rehearse else (4_000, 16_000, 66_800):
        whole = None
        for way in ways:
            if of_maps.HELD.get(way, 0) * positions**2 > 0.8 * free:
                rows.append({"positions": positions, "way": way, "left out": "too large for the memory"})
                continue
            row = {"positions": positions, "way": way, **of_maps.measure(way, positions, 256, device.type)}
            whole = row["divergence"] if way == "whole" else whole
            if whole is not None:
                row["differs by"] = abs(row["divergence"] / whole - 1)
            rows.append(row)
    return rows


def search(device: torch.device, rehearse: bool) -> list[Row]:
    from image_files import ImageFiles
    from search import largest_throughput, ours, peak, per_network, random_supernet, timed

    from data_plugin.features.prefix_tree import tree_flops, tree_order
    from data_plugin.images.drawn_voc import draw_voc
    from data_plugin.space import cost
    from data_plugin.space.search_space import SPACES

    space = SPACES["micro" if rehearse else "data"]()
    count, size = (2, 32) if rehearse else (16, 224)
    middle = [choices[len(choices) // 2] for choices in (space.stem, space.width[0], space.depth[0])]
    part = [arch for arch in space if [arch.stem, arch.width[0], arch.depth[0]] == middle]
    part = part[:40] if rehearse else part
    supernet = random_supernet(space, device)
    teacher = cost.flops(space.largest, size)
    works = {
        "part": tree_flops(tree_order(part), (size, size)),
        "all": tree_flops(tree_order(list(space)), (size, size)),
    }
    with TemporaryDirectory() as folder:
        root = draw_voc(Path(folder), train=count, test=1, size=(320, 240), seed=0)
        files = sorted((root / "JPEGImages").glob("*.jpg"))[:count]
        batches = ImageFiles(files, size).batches(count)
        ours(supernet, part[:1], batches)  # what a process spends once
        scores, seconds = timed(lambda: ours(supernet, part, batches), device)
        held = peak(device)
        few = part[:: max(1, len(part) // 20)]
        alone, alone_seconds = timed(lambda: per_network(supernet, few, batches), device)
        throughput = largest_throughput(supernet.query, batches, device)
    known = dict(zip(part, scores.tolist(), strict=True))
    apart = max(abs(known[arch] - score) for arch, score in zip(few, alone.tolist(), strict=True))
    share = sum(cost.flops(arch, size) for arch in few) / sum(cost.flops(arch, size) for arch in part)
    an_image = seconds / count * (works["all"] + teacher) / (works["part"] + teacher)
    return [
        {
            "networks": len(part),
            "of": len(space),
            "images": count,
            "seconds": seconds,
            "peak memory": held,
            "each alone, seconds": alone_seconds / share,
            "from networks": len(few),
            "scores differ by": apart,
            "of the largest network's throughput": (works["part"] + teacher) * count / seconds / throughput,
            "all networks, seconds an image": an_image,
            "all networks on 256 images, minutes": 256 * an_image / 60,
        }
    ]


def precision(device: torch.device, rehearse: bool) -> list[Row]:
    from image_files import ImageFiles
    from rankings import one_budget
    from search_approximations import compare

    from data_plugin.images.drawn_voc import draw_voc
    from data_plugin.supernet.checkpoint import load_supernet
    from data_plugin.supernet.named_supernet import SHIPPED

    count, size, networks = (2, 32, 6) if rehearse else (32, 224, 100)
    supernet = load_supernet(SHIPPED)
    for branch in (supernet.query, supernet.key):
        branch.to(device)
    archs = one_budget(supernet.info.space, networks)
    with TemporaryDirectory() as folder:
        root = draw_voc(Path(folder), train=2 * count, test=1, size=(320, 240), seed=0)
        files = sorted((root / "JPEGImages").glob("*.jpg"))[: 2 * count]
        same, others = (ImageFiles(half, size).batches(min(8, count)) for half in (files[:count], files[count:]))
        return [
            {"taps": taps, "approximation": name, **row}
            for taps in ("C5", "C2,C3,C4,C5")
            for name, row in compare(supernet, archs, same, others, taps.split(","))
        ]


def tests(device: torch.device, rehearse: bool) -> list[Row]:
    del rehearse
    folder = Path(__file__).resolve().parent.parent / "tests"
    files = [str(path) for path in sorted(folder.rglob("test_*.py")) if "mark.cuda" in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "CUDA_TESTS_ON": device.type}
    ended = subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stdout[-4_000:] + ended.stderr[-1_000:])
    return [{"tests": ended.stdout.strip().splitlines()[-1]}]


PARTS: dict[str, Callable[[torch.device, bool], list[Row]]] = {
    "training": training,
    "relation": relation,
    "search": search,
    "precision": precision,
    "tests": tests,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of everything that was measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rehearse", action="store_true", help="everything in tiny on a CPU, to see that it runs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.rehearse else "cuda")
    if arguments.part:
        rows = PARTS[arguments.part](device, arguments.rehearse)
        arguments.out.write_text(json.dumps(rows), encoding="utf-8")
        return 0
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device; --rehearse runs everything in tiny on a CPU", file=sys.stderr)
        return 2
    started, failed = time.monotonic(), False
    found: dict[str, Any] = {
        "device": device_name(device),
        "rehearsal": arguments.rehearse,
        "versions": installed_versions(["torch", "triton", "kornia"]),
        "parts": {},
    }
    print(f"{found['device']}, {', '.join(f'{name} {version}' for name, version in found['versions'].items())}")
    for name in arguments.parts:
        began = time.monotonic()
        part = in_a_process(name, arguments.rehearse, SECONDS - (began - started))
        failed |= "error" in part
        found["parts"][name] = {**part, "seconds": time.monotonic() - began}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"\n{name}, {found['parts'][name]['seconds']:.0f} s\n\n{table(part)}", flush=True)
    return int(failed)


def in_a_process(name: str, rehearse: bool, seconds: float) -> Row:
    """What a part measures, or what it said when it failed."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "rows.json")
        command = [sys.executable, __file__, "--out", str(out), "--part", name, *(["--rehearse"] * rehearse)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {seconds:.0f} s, when all parts together had lasted {SECONDS} s"}
        except subprocess.CalledProcessError as error:
            return {"error": error.stderr[-4_000:]}
        return {"rows": json.loads(out.read_text(encoding="utf-8"))}


def table(part: Row) -> str:
    """The rows of a part as a table in Markdown, or why there are none."""
    if "error" in part:
        return f"failed: {part['error'].strip().splitlines()[-1] if part['error'].strip() else 'without a word'}"
    heads = list(dict.fromkeys(head for row in part["rows"] for head in row))
    rows = [heads, ["---"] * len(heads), *([shown(row.get(head, "")) for head in heads] for row in part["rows"])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(value: Any) -> str:
    """A figure with four digits, large ones by thousands."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())

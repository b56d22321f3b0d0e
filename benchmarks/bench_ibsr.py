"""IBSR18: Dice of our recipe and of MONAI's U-Net against minutes of training, same subjects and budgets on this machine.

    python benchmarks/bench_ibsr.py --data ../shared/data/ibsr18 [--minutes 5 15] [--threads 2]

The peer follows MONAI's 3D tutorials: UNet with residual units (32 to 512 channels, instance norm), crops of 96³ around the tissues,
random flips between left and right, rotation, scaling, contrast and noise, DiceCELoss, AdamW, a cosine schedule over the budget, sliding
windows and mirroring at inference. Ours averages its weights and three planes, and lets TensorFlow use bfloat16. Both see the eight
training subjects, z-scored in the brain and cut to its box; each budget is a training of its own. Its clock starts after the first step
with ours (that step compiles the network), at the first step with the peer, which compiles nothing. The five validation subjects are
scored by :mod:`segkit.metrics`.
"""

import argparse
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import peers

from segkit import metrics, statistics
from segkit.studies import ibsr
from segkit.studies.ibsr import experiments, recipe

PEER = (
    peers.MONAI
    + r"""
size = (96, 96, 96)
turn = T.Compose([
    T.RandCropByLabelClassesd(keys, label_key="label", spatial_size=size, ratios=[1, 1, 1, 1], num_classes=4, num_samples=1),
    T.RandFlipd(keys, prob=0.5, spatial_axis=0),
    T.RandAffined(keys, prob=0.75, rotate_range=(0.2,) * 3, scale_range=(0.12,) * 3, mode=("bilinear", "nearest"), padding_mode="border"),
    T.RandScaleIntensityd("image", 0.15, prob=0.75), T.RandShiftIntensityd("image", 0.15, prob=0.75),
    T.RandGaussianNoised("image", prob=0.3, std=0.1),
])
net = UNet(3, 1, 4, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2), num_res_units=2, norm="instance")
train, test = load("train"), load("validation")
for step, spent, value in training(net, train, turn):
    if step % 50 == 0:
        print(f"{spent:.0f} s, step {step}, loss {value:.3f}", file=sys.stderr, flush=True)
net.eval()
for name, item in zip(cases["validation"], test):
    with torch.no_grad():
        images = item["image"][None], item["image"][None].flip(2)
        both = [sliding_window_inference(i, size, 1, net, overlap=0.25).softmax(1) for i in images]
        found = (both[0] + both[1].flip(2)).argmax(1)[0]
    np.save(f"{folder}/{name}_peer.npy", found.numpy().astype(np.uint8))
told(net, step)
"""
)


def main() -> None:
    """Train both at each budget, score them, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/ibsr18")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(options.threads)  # read when TensorFlow first computes
    if not Path(options.data).is_dir():
        print(f"  {options.data}: no such folder; this benchmark needs the real subjects (--data), it is left out")
        return
    python = peers.environment("monai", "torch==2.13.0", "monai", "numpy", "einops")
    run = ibsr.start("full", data=Path(options.data).resolve())
    experiments.prepare(run)
    cases = ibsr.split(ibsr.find(run.data))
    known, rows = recipe.cubes(run.results, [*cases["train"], *cases["validation"]]), []
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory() as folder:
            for name, (image, label) in known.items():
                np.savez(Path(folder) / f"{name}.npz", image=image, label=label)
            peer = peers.call(python, PEER, folder, str(minutes), str(options.threads), json.dumps(cases))
            theirs = {s: np.load(Path(folder) / f"{s}_peer.npy") for s in cases["validation"]}
        shutil.rmtree(
            run.results / "runs" / f"bench_{minutes:g}_minutes", ignore_errors=True
        )  # the peer starts anew, too
        alone = {"train": cases["train"], "selection": []}
        model, history = recipe.train_recipe(run, alone, name=f"bench_{minutes:g}_minutes", minutes=minutes, verbose=2)
        method = functools.partial(recipe.predict_recipe, model)
        ours = ibsr.evaluate({"bench": method}, run.data, run.results, cases["validation"])
        for label, value in ibsr.LABELS.items():
            dice = {
                "segkit": ours.loc[ours["label"] == label, "dice"],
                "monai": [metrics.dice(known[s][1] == value, theirs[s] == value) for s in cases["validation"]],
            }
            by = {name: statistics.bootstrap_mean(values) for name, values in dice.items()}
            rows.append({
                "minutes": minutes, "label": label, "subjects": len(dice["monai"]),
                **{f"{name}_{what}": round(v, 4) for name, t in by.items() for what, v in zip(("dice", "low", "high"), t, strict=True)},
                "segkit_steps": int(history["iterations"].iloc[-1]), "segkit_parameters": model.count_params(),
                "monai_steps": peer["steps"], "monai_parameters": peer["parameters"], "monai_versions": peer["versions"],
            })  # fmt: skip
        peers.write("ibsr", rows)  # a budget is half an hour of work


if __name__ == "__main__":
    main()

"""Left atrium: MONAI's U-Net trained on the same cases for the same wall-clock, both scored by our metrics on the test cases.

    python benchmarks/bench_atrium.py --data ../shared/data/left_atrium [--minutes 9] [--threads 2]

The peer follows MONAI's own 3D tutorials: UNet with residual units (16 to 256 channels, instance norm), crops of 96 × 80 × 48
around foreground and background, random rotation, scaling, contrast and noise, DiceCELoss, AdamW, a cosine schedule over the
budget, sliding windows at inference. It sees the same working grid (half the resolution) and keeps the state that
is best on the same selection cases. Ours is the run of notebook 03 with the same budget; it is trained now where there is none.
"""

import argparse
import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import peers

from segkit import metrics, postprocessing, volumes
from segkit.studies import atrium

PEER = (
    peers.MONAI
    + r"""
size = (96, 80, 48)
turn = T.Compose([
    T.SpatialPadd(keys, size),
    T.RandCropByPosNegLabeld(keys, label_key="label", spatial_size=size, pos=1, neg=1, num_samples=1),
    T.RandAffined(keys, prob=0.75, rotate_range=(0.13, 0.13, 0.26), scale_range=(0.18,) * 3,
                  mode=("bilinear", "nearest"), padding_mode="border"),
    T.RandScaleIntensityd("image", 0.22, prob=0.75), T.RandShiftIntensityd("image", 0.22, prob=0.75),
    T.RandGaussianNoised("image", prob=0.3, std=0.1),
])
net = UNet(3, 1, 2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="instance")
train, selection, test = load("train"), load("selection"), load("test")
def predict(item):
    with torch.no_grad():
        return sliding_window_inference(item["image"][None], size, 1, net, overlap=0.25).softmax(1)[0, 1].numpy()
def dice(a, b):
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())
def selected():
    net.eval()
    return np.mean([dice(predict(i) >= 0.5, i["label"][0].numpy() > 0) for i in selection])
best, state = -1.0, None
for step, spent, value in training(net, train, turn):
    if step % 56 == 0:
        score = selected()
        if score > best:
            best, state = score, {k: v.clone() for k, v in net.state_dict().items()}
        print(f"{spent:.0f} s, step {step}, loss {value:.3f}, selection {score:.4f}", file=sys.stderr, flush=True)
score = selected()
if state is not None and score < best:
    net.load_state_dict(state)
for name, item in zip(cases["test"], test):
    np.save(f"{folder}/{name}_peer.npy", predict(item).astype(np.float32))
told(net, step, selection=max(best, score))
"""
)


def main() -> None:
    """Train the peer, score it and ours, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/left_atrium")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not Path(options.data).is_dir():
        print(f"  {options.data}: no such folder; this benchmark needs the real cases (--data), it is left out")
        return
    python = peers.environment("monai", "torch==2.13.0", "monai", "numpy", "einops")
    run = atrium.start("full", data=Path(options.data).resolve())
    table = atrium.find(run.data)
    cases = atrium.split(table)
    atrium.standardise(run.data, run.results)
    atrium.halve(run.data, run.results, spacing_mm=run.profile.spacing_mm)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        known = atrium.load_small(run.results, [s for chosen in cases.values() for s in chosen])
        for name, (image, label) in known.items():
            np.savez(Path(folder) / f"{name}.npz", image=image, label=label >= 0.5)
        found = peers.call(python, PEER, folder, str(options.minutes), str(options.threads), json.dumps(cases))
        model, history = atrium.train(run, cases, minutes=options.minutes, verbose=2)
        for subject in cases["test"]:
            image, label = (volumes.canonical(v) for v in atrium.read(table.loc[subject]))
            with np.load(run.results / "downsampled" / f"{subject}.npz") as part:
                small = nib.Nifti1Image(np.load(Path(folder) / f"{subject}_peer.npy"), part["affine"])
            probabilities = volumes.array(volumes.resample(small, like=image, kind="image"))
            plain = postprocessing.largest_component(probabilities >= 0.5)
            rows.append({
                "subject": subject, "minutes": options.minutes, "monai_dice": round(metrics.dice(volumes.array(label), plain), 4),
                "monai_dice_with_our_chain": round(metrics.dice(volumes.array(label), atrium.enhance(probabilities)), 4),
                "segkit_dice": round(metrics.dice(volumes.array(label), atrium.to_mask(atrium.predict(model, image))), 4),
            })  # fmt: skip
    mean = {"subject": "mean", "minutes": options.minutes} | {
        k: round(float(np.mean([r[k] for r in rows])), 4) for k in rows[0] if k.endswith(("dice", "chain"))
    }
    notes = {f"monai_{k}": found[k] for k in ("steps", "parameters", "versions")}
    notes |= {
        "segkit_steps": int(history["iterations"].iloc[-1]),
        "segkit_parameters": model.count_params(),
        "data": atrium.CHALLENGE,
    }
    peers.write("atrium", [row | notes for row in [*rows, mean]])


if __name__ == "__main__":
    main()

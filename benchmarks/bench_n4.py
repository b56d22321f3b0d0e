"""N4 fitted on a grid four times coarser against N4 at full resolution: time ratio and difference of the fields.

On a phantom of the IBSR study (256 × 128 × 256) with a field of its own and a stronger one planted on top; the coefficient of
variation of the white matter says how well each took them away.
"""

import numpy as np
import peers
from nibabel import Nifti1Image

from segkit import intensity, volumes
from segkit.phantoms import anatomy, ibsr


def main() -> None:
    """Run both and write the table."""
    image, label, affine = ibsr.subject("IBSR_16", 0)
    planted = anatomy.bias_field(image.shape, ibsr.spacing_mm("IBSR_16"), np.random.default_rng(1), strength=0.2)
    scan = Nifti1Image((image * planted).astype(np.float32), affine)
    brain, white = image > 0, label == 3
    found, rows = {}, []
    for name, shrink, repeats in (("full resolution", 1, 1), ("shrunk 4 times", 4, 3)):
        seconds, (corrected, field) = peers.median_seconds(
            lambda s=shrink: intensity.n4(scan, brain, shrink=s, return_field=True), repeats
        )
        log = np.log(volumes.array(field)[brain])
        found[name] = log - log.mean()  # a field is known up to a factor
        values = volumes.array(corrected)[white]
        rows.append(
            {
                "what": f"N4, {name}",
                "seconds": f"{seconds:.2f}",
                "white_variation": f"{values.std() / values.mean():.4f}",
            }
        )
    difference = np.abs(np.expm1(found["full resolution"] - found["shrunk 4 times"]))
    before = volumes.array(scan)[white]
    rows = [{"what": "before", "seconds": "", "white_variation": f"{before.std() / before.mean():.4f}"}, *rows]
    ratio = float(rows[1]["seconds"]) / float(rows[2]["seconds"])
    summary = {
        "times_faster": f"{ratio:.1f}", "median_field_difference_percent": f"{100 * np.median(difference):.2f}",
        "p99_field_difference_percent": f"{100 * np.percentile(difference, 99):.2f}",
    }  # fmt: skip
    peers.write("n4", [row | (summary if "shrunk" in row["what"] else dict.fromkeys(summary, "")) for row in rows])


if __name__ == "__main__":
    main()

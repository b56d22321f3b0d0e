"""What a figure says about where its data came from, and whether it may show them."""

REMARKS = {
    "phantom": "phantom",
    "simulated": "simulated QSM, real anatomy of the nuclei",
    "simulated phantom": "phantom, simulated QSM",
    "simulated real": "simulated QSM, real anatomy of the nuclei",
}


def remark(source: str | None) -> str:
    """Text under a figure; nothing for real data."""
    return REMARKS.get(source or "", "")


def hidden(source: str | None) -> bool:
    """Whether pictures of voxels must not be made: real subjects, and maps simulated on their anatomy."""
    return source in ("real", "simulated real")

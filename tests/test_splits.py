import pytest

from segkit import splits


def test_lists_are_written_and_read(tmp_path):
    path = splits.write(["b", "a"], tmp_path / "x" / "train.txt")
    assert splits.read(path) == ["b", "a"]
    path.write_text("# comment\n\n a  # why\n")
    assert splits.read(path) == ["a"]


def test_a_byte_order_mark_does_not_hide_a_subject(tmp_path):
    (tmp_path / "windows.txt").write_bytes("\ufeffIBSR_01\r\nIBSR_02\r\n".encode())
    assert splits.read(tmp_path / "windows.txt") == ["IBSR_01", "IBSR_02"]


def test_bad_lists_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt: no such subject list"):
        splits.read(tmp_path / "none.txt")
    path = splits.write(["a", "b", "a"], tmp_path / "twice.txt")
    with pytest.raises(ValueError, match=r"twice.txt: subjects \['a'\] stand twice"):
        splits.read(path)
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="no subject"):
        splits.read(path)


def test_the_leakage_guard_names_subject_and_lists():
    with pytest.raises(ValueError, match=r"\['s2'\] stand in both train and test"):
        splits.check_disjoint(train=["s1", "s2"], validation=["s3"], test=["s2"])
    splits.check_disjoint(train=["s1"], validation=["s2"], test=[])


@pytest.mark.parametrize("n", [2, 5, 15])
@pytest.mark.parametrize("k", [2, 5, 15])
def test_folds_part_the_subjects(n, k):
    names = [f"s{i}" for i in range(n)]
    if k > n:
        with pytest.raises(ValueError, match=f"{k} folds of {n}"):
            splits.folds(names, k)
        return
    made = splits.folds(names, k, seed=3)
    assert sorted(s for _, part in made for s in part) == sorted(names)
    assert max(len(p) for _, p in made) - min(len(p) for _, p in made) <= 1
    for train, part in made:
        assert sorted(train + part) == sorted(names)
    assert made == splits.folds(reversed(names), k, seed=3)
    if n > 2:
        assert any(splits.folds(names, k, seed=s) != made for s in range(5)) or k == n

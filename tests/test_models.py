"""The contract of every network, and the parameter counts of the reports. Runs on each backend."""

import keras
import numpy as np
import pytest

from segkit import models

COUNTS = {
    "ibsr_unet2d": 3_918_692,
    "ibsr_unet2d_4level": 968_804,
    "ibsr_resunet2d": 9_895_364,
    "ibsr_denseunet2d": 15_479_972,
    "ibsr_denseunet2d_full": 25_845_480,
    "ibsr_unet3d": 11_752_868,
    "qsm_unet3d": 5_644_913,
    "qsm_unet3d_base32": 22_575_329,
    "qsm_resunet3d": 22_942_657,
    "qsm_resunet3d_base16": 5_741_537,
    "atrium_unet": 31_048_257,
    "lgg_unet": 7_782_913,
    "lgg_resnet50_unet": 20_676_545,
    "lgg_bunet": 8_399_873,
    "wmh_generator": 12_134_241,
}
# ours, by the same formula; no report prints them
OURS = {
    "ibsr_unet_slices": 1_945_572,
    "atrium_unet_slim": 1_945_233,
    "atrium_unet3d": 1_401_265,
    "lgg_unet_slices": 1_943_393,
    "qsm_double_branch": 9_587_121,
    "qsm_nuclei": 2_214_506,
    "wmh_unet_slices": 1_939_297,
}
STEMMED = ("lgg_unet_slices", "qsm_nuclei", "wmh_unet_slices")  # halve once more
SLIM = {"filters": (4, 6, 8), "dropout": 0.2}
SLIM_OF = {
    "lgg_bunet": {"filters": (4, 6, 8), "skip_kernels": (3, 5), "context_kernel": 5},
    "lgg_resnet50_unet": {"filters": (8, 6, 4, 4), "encoder_width": 1 / 16},
}


def test_every_preset_has_a_published_count():
    assert set(models.names()) == {*COUNTS, *OURS, "lgg_backbone_unet"}  # whose count is its backbone's


@pytest.mark.parametrize("name", OURS)
def test_parameter_count_of_our_own(name):
    assert models.build(name).count_params() == OURS[name]


def test_variants_of_the_concatenated_networks():
    """The code's skips with true dense blocks, and what "residual" means elsewhere (STUDIES, section 0)."""
    mixed = models.build("ibsr_denseunet2d_full", skips="deepest")
    assert mixed.count_params() == 24_839_460
    added = models.build("ibsr_resunet2d", add=True, filters=(4, 6))
    assert added.get_layer("down1_add").output.shape[-1] == 4
    level = models.build("ibsr_denseunet2d", filters=(4, 6, 8))
    assert level.get_layer("down1_join").output.shape[-1] == 1 + 4
    assert level.get_layer("down2_dense").output.shape[-1] == 1 + 4 + 6
    assert level.get_layer("up2_concat").output.shape[-1] == 6 + (5 + 6)  # the deepest skip holds its level's input
    assert level.get_layer("up1_concat").output.shape[-1] == 4 + 4
    whole = models.build("ibsr_denseunet2d_full", filters=(4, 6))
    assert whole.get_layer("down1_join").output.shape[-1] == 1 + 4 + 4
    with pytest.raises(ValueError, match="skips must be"):
        models.build("ibsr_resunet2d", skips="all")
    with pytest.raises(ValueError, match="cannot be halved 4 times; use a multiple of 16"):
        models.build("ibsr_resunet2d", input_shape=(20, 20, 1))


@pytest.mark.parametrize("rank", [2, 3])
def test_a_stem_coarsens_first_and_refines_last(rank):
    shape = (*[None] * rank, 2)
    model = models.unet(shape, 3, filters=(4, 6), stem=2)
    assert model.get_layer("stem").kernel.shape == (*[4] * rank, 2, 4)
    y = np.asarray(model.predict_on_batch(np.zeros((1, *[12] * rank, 2), "f")))
    assert y.shape == (1, *[12] * rank, 3)
    with pytest.raises(ValueError, match="use a multiple of 4"):
        models.unet((*[10] * rank, 2), 3, filters=(4, 6), stem=2)


@pytest.mark.parametrize("rank", [2, 3])
def test_linear_upsampling_keeps_a_ramp_and_a_constant(rank):
    from segkit.models import blocks

    ramp = np.arange(5.0)[(slice(None), *[None] * rank)] * np.ones((5, *[3] * (rank - 1), 1))
    found = np.asarray(blocks.LinearUpsampling()(ramp[None].astype("f")))[0]
    assert found.shape == (10, *[6] * (rank - 1), 1)
    by_hand = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]
    np.testing.assert_allclose(found.reshape(10, -1), np.array(by_hand)[:, None] * np.ones(6 ** (rank - 1)), atol=1e-6)


def test_instance_norm_normalises_each_sample_by_itself():
    """A batch with another image, or the same image brighter, changes nothing."""
    keras.utils.set_random_seed(0)
    model = models.build("atrium_unet3d", filters=(4, 8))
    a, b = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 8, 1)).astype("f")
    alone = np.asarray(model.predict_on_batch(a))
    together = np.asarray(model.predict_on_batch(np.concatenate([a, 5 * b])))
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    with pytest.raises(ValueError, match='normalization must be "batch", "instance" or None'):
        models.build("atrium_unet3d", filters=(4, 8), normalization="layer")


def test_normalisation_can_be_left_to_the_encoder():
    model = models.build("ibsr_unet2d_4level", normalization="batch", normalize_decoder=False)
    where = [layer.name for layer in model.layers if layer.name.endswith("_bn")]
    assert where == ["down1_conv1_bn", "down2_conv1_bn", "down3_conv1_bn", "bottom_conv1_bn"]


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_reports(name):
    model = models.build(name)
    assert model.count_params() == COUNTS[name]
    assert model.name == name
    if name == "atrium_unet":
        trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
        assert trainable == 31_036_481


@pytest.mark.parametrize("name", [*COUNTS, *OURS])
def test_contract_of_every_preset(name, tmp_path):
    """Any size that can be halved; float32 out; probabilities where the head says so; survives a file in safe mode."""
    keras.utils.set_random_seed(1)
    model = models.build(name, **SLIM_OF.get(name, SLIM | ({"dropout": 0.0} if "qsm" in name else {})))
    rank, channels = len(model.inputs[0].shape) - 2, model.inputs[0].shape[-1]
    for side in (16, 32) if "resnet" in name or name in STEMMED else (8, 12):
        x = np.random.default_rng(0).normal(size=(2, *[side] * rank, channels)).astype("f")
        y = np.asarray(model.predict_on_batch(x))
        assert y.shape == (*x.shape[:-1], model.outputs[0].shape[-1])
        assert y.dtype == np.float32
        assert np.isfinite(y).all()
    if y.shape[-1] > 1:
        np.testing.assert_allclose(y.sum(-1), 1, atol=1e-5)
    elif name not in ("atrium_unet", "atrium_unet_slim"):  # which give logits
        assert 0 <= y.min() <= y.max() <= 1
    np.testing.assert_array_equal(y, np.asarray(model.predict_on_batch(x)))  # no dropout at inference
    model.save(tmp_path / "m.keras")
    again = models.load(tmp_path / "m.keras")
    np.testing.assert_allclose(np.asarray(again.predict_on_batch(x)), y, atol=1e-6)


def test_monte_carlo_dropout_stays_on_and_survives_a_file(tmp_path):
    model = models.build("ibsr_unet2d_4level", filters=(8, 8), monte_carlo=True)
    x = np.ones((1, 8, 8, 1), "f")
    model.save(tmp_path / "m.keras")
    for net in (model, models.load(tmp_path / "m.keras")):
        assert not np.array_equal(np.asarray(net.predict_on_batch(x)), np.asarray(net.predict_on_batch(x)))


def test_released_models_take_half_the_space_and_come_back_in_float32(tmp_path):
    model = models.build("ibsr_unet2d_4level")
    path = models.save(model, tmp_path / "m.keras")
    assert path.stat().st_size < 2_200_000
    again = models.load(path)
    assert {str(w.dtype) for w in again.weights if "seed" not in w.path} == {"float32"}
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    assert all(str(w.dtype) == "float32" for w in model.trainable_weights)  # the model itself is as it was


def test_a_model_trained_in_mixed_precision_is_released_like_any_other(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = models.build("ibsr_unet2d_4level", filters=(8, 8))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.save(tmp_path / "best.keras")
    plain = models.build("ibsr_unet2d_4level", filters=(8, 8))
    sizes = [models.save(m, tmp_path / f"{i}.keras").stat().st_size for i, m in enumerate((model, plain))]
    assert sizes[0] < 1.1 * sizes[1]
    for path in (tmp_path / "best.keras", tmp_path / "0.keras"):
        assert {layer.dtype_policy.name for layer in models.load(path).layers} == {"float32"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.build("unet9000"), "no network is called 'unet9000'; choose one of atrium_unet"),
        (lambda: models.build("ibsr_unet2d", depth=3), "does not take these settings"),
        (lambda: models.build("ibsr_unet2d", input_shape=(30, 32, 1)), "input of 30 voxels cannot be halved 4 times"),
        (lambda: models.build("ibsr_unet2d", input_shape=(32, 1)), "input_shape must be"),
        (lambda: models.build("ibsr_unet2d", dropout=(0.1, 0.2)), "5 levels take 9 dropout rates"),
        (lambda: models.build("ibsr_unet3d", upsampling="cubic"), "upsampling 'cubic' is not known"),
    ],
)
def test_bad_requests_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.keras: no such model"):
        models.load(tmp_path / "none.keras")
    (tmp_path / "bad.keras").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"bad.keras: not a Keras model"):
        models.load(tmp_path / "bad.keras")


def test_code_in_a_model_file_is_refused(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match="lambda.keras: not a Keras model that can be loaded"):
        models.load(tmp_path / "lambda.keras")


def test_dropout_left_on_samples_around_the_plain_prediction():
    model = models.build("ibsr_unet2d_4level", filters=(4, 8), dropout=0.2)
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype("float32")
    plain = model.predict(x, verbose=0)

    def samples(seed, count):
        twin = models.with_dropout_on(model, seed=seed)
        assert twin.count_params() == model.count_params()
        return np.stack([twin.predict(x, verbose=0) for _ in range(count)])

    many = samples(0, 40)
    assert np.abs(many[0] - many[1]).max() > 1e-4
    assert np.abs(many.mean(axis=0) - plain).mean() < 0.5 * np.abs(many - plain).mean()
    np.testing.assert_array_equal(samples(0, 2), many[:2])
    assert np.abs(samples(1, 1)[0] - many[0]).max() > 1e-4
    np.testing.assert_array_equal(model.predict(x, verbose=0), plain)
    rare = models.build("ibsr_unet2d_4level", filters=(4, 8), dropout=1e-9)
    np.testing.assert_allclose(
        models.with_dropout_on(rare).predict(x, verbose=0), rare.predict(x, verbose=0), atol=1e-6
    )
    with pytest.raises(ValueError, match="has no dropout, so nothing can be sampled"):
        models.with_dropout_on(models.build("ibsr_unet_slices", filters=(4, 8)))


def test_with_a_log_prior_an_untrained_network_gives_the_atlas(rng):
    model = models.build("qsm_nuclei", filters=(4, 8))
    head = model.get_layer("head")
    head.set_weights([np.zeros_like(w) for w in head.get_weights()])
    shares = rng.dirichlet(np.ones(6), (1, 8, 8, 8)).astype("f")
    shares[0, :4] = (1, 0, 0, 0, 0, 0)  # nobody has a nucleus there
    image = np.concatenate([rng.normal(size=(1, 8, 8, 8, 1)).astype("f"), shares[..., 1:]], axis=-1)
    wanted = np.clip(shares, 0.01, 1)
    np.testing.assert_allclose(model.predict(image, verbose=0), wanted / wanted.sum(axis=-1, keepdims=True), atol=1e-5)

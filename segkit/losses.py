"""Serialisable losses. Keras's own serve where their definition is the one wanted:

======================  ==============================================================
cross-entropy           ``keras.losses.CategoricalCrossentropy``
focal                   ``keras.losses.CategoricalFocalCrossentropy``
BCE on logits           ``keras.losses.BinaryCrossentropy(from_logits=True)``
======================  ==============================================================

All take ``(n, …, classes)`` targets (one-hot, or one channel) and probabilities unless ``from_logits`` is said, and sum
in float32. ``get(name, **settings)`` finds any of them by name.
"""

import keras
from keras import ops

from segkit.content import Content


@keras.saving.register_keras_serializable("segkit")
class WeightedCrossEntropy(keras.losses.Loss):
    """Cross-entropy with a weight a class: −Σ w_c t_c log p_c, averaged over voxels.

    References
    ----------
    IBSR report, section 4.6.1 (a weight on CSF).
    """

    def __init__(self, class_weights, name="weighted_cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.class_weights = [float(w) for w in class_weights]

    def call(self, y_true, y_pred):
        y_true, y_pred = _float32(y_true, y_pred)
        weights = ops.convert_to_tensor(self.class_weights, "float32")
        return -ops.sum(weights * y_true * ops.log(ops.clip(y_pred, 1e-7, 1.0)), axis=-1)

    def get_config(self):
        return super().get_config() | {"class_weights": self.class_weights}


@keras.saving.register_keras_serializable("segkit")
class Tversky(keras.losses.Loss):
    """1 − mean over classes of (TP + s) / (TP + α FP + β FN + s).

    Parameters
    ----------
    alpha, beta : float
        Weights of false positives and false negatives; .5 and .5 give the Dice loss.
    smooth : float
        s, in voxels; 1 by custom of the Dice form 2 TP + 1 over … + 1 means .5 here.
    background : bool
        Count channel 0 as a class (a single channel always counts).
    over_batch : bool
        Sum over the whole batch before dividing, instead of sample by sample.

    References
    ----------
    Salehi et al., MLMI 2017. IBSR report, equation (4).
    """

    def __init__(self, alpha=0.3, beta=0.7, smooth=1e-6, background=True, over_batch=True, name="tversky", **kwargs):
        super().__init__(name=name, **kwargs)
        self.alpha, self.beta, self.smooth = float(alpha), float(beta), float(smooth)
        self.background, self.over_batch = bool(background), bool(over_batch)

    def index(self, y_true, y_pred):
        """Tversky index, of shape (1 or n, classes)."""
        y_true, y_pred = _foreground(*_float32(y_true, y_pred), self.background)
        axes = tuple(range(0 if self.over_batch else 1, len(y_pred.shape) - 1))
        hit = ops.sum(y_true * y_pred, axis=axes)
        miss = self.alpha * (ops.sum(y_pred, axis=axes) - hit) + self.beta * (ops.sum(y_true, axis=axes) - hit)
        index = (hit + self.smooth) / (hit + miss + self.smooth)
        return ops.expand_dims(index, 0) if self.over_batch else index

    def call(self, y_true, y_pred):
        return 1 - ops.mean(self.index(y_true, y_pred), axis=-1)

    def get_config(self):
        return super().get_config() | {
            "alpha": self.alpha, "beta": self.beta, "smooth": self.smooth,
            "background": self.background, "over_batch": self.over_batch,
        }  # fmt: skip


@keras.saving.register_keras_serializable("segkit")
class Dice(Tversky):
    """1 − mean over classes of (2 TP + ε) / (|T| + |P| + ε); ``smooth`` is ε.

    ``squared``: |T| and |P| are sums of squares, as V-Net has them. For soft targets (.1 and .9) this matters: with plain sums a
    prediction of 1 everywhere scores better than one that equals the target, where lesions are few.

    References
    ----------
    IBSR report, equation (2); Sudre et al., DLMIA 2017. Squared: Milletari et al., V-Net, 3DV 2016.
    """

    def __init__(self, smooth=1e-6, background=True, over_batch=True, squared=False, name="dice", **kwargs):
        kwargs.pop("alpha", None), kwargs.pop("beta", None)
        super().__init__(0.5, 0.5, smooth / 2, background, over_batch, name=name, **kwargs)
        self.squared = bool(squared)

    def index(self, y_true, y_pred):
        """Dice index, of shape (1 or n, classes)."""
        if not self.squared:
            return super().index(y_true, y_pred)
        y_true, y_pred = _foreground(*_float32(y_true, y_pred), self.background)
        axes = tuple(range(0 if self.over_batch else 1, len(y_pred.shape) - 1))
        both = ops.sum(ops.square(y_true), axis=axes) + ops.sum(ops.square(y_pred), axis=axes)
        index = (2 * ops.sum(y_true * y_pred, axis=axes) + 2 * self.smooth) / (both + 2 * self.smooth)
        return ops.expand_dims(index, 0) if self.over_batch else index

    def get_config(self):
        return super().get_config() | {"smooth": 2 * self.smooth, "squared": self.squared}


@keras.saving.register_keras_serializable("segkit")
class FocalTversky(Tversky):
    """Mean over classes of (1 − Tversky index)^γ.

    References
    ----------
    Abraham and Khan, ISBI 2019 (there with exponent 1/γ). IBSR report, equation (5); its code has γ = 1.
    """

    def __init__(self, alpha=0.3, beta=0.7, gamma=0.75, name="focal_tversky", **kwargs):
        super().__init__(alpha, beta, name=name, **kwargs)
        self.gamma = float(gamma)

    def call(self, y_true, y_pred):
        # the floor keeps the gradient of a root finite at a perfect prediction
        return ops.mean(ops.power(ops.maximum(1 - self.index(y_true, y_pred), 1e-7), self.gamma), axis=-1)

    def get_config(self):
        return super().get_config() | {"gamma": self.gamma}


@keras.saving.register_keras_serializable("segkit")
class GeneralizedDice(keras.losses.Loss):
    """1 − 2 Σ_c w_c TP_c / Σ_c w_c (|T_c| + |P_c|) with w_c = 1 / |T_c|², over the batch; absent classes weigh nothing.

    References
    ----------
    Sudre et al., Generalised Dice overlap, DLMIA 2017.
    """

    def __init__(self, smooth=1e-6, name="generalized_dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.smooth = float(smooth)

    def call(self, y_true, y_pred):
        y_true, y_pred = _float32(y_true, y_pred)
        if y_pred.shape[-1] == 1:
            y_true, y_pred = (ops.concatenate([1 - y, y], axis=-1) for y in (y_true, y_pred))
        axes = tuple(range(len(y_pred.shape) - 1))
        volume = ops.sum(y_true, axis=axes)
        weight = ops.where(volume > 0, 1 / ops.square(ops.maximum(volume, 1.0)), 0.0)
        hit = ops.sum(weight * ops.sum(y_true * y_pred, axis=axes))
        total = ops.sum(weight * (volume + ops.sum(y_pred, axis=axes)))
        return 1 - (2 * hit + self.smooth) / (total + self.smooth)

    def get_config(self):
        return super().get_config() | {"smooth": self.smooth}


@keras.saving.register_keras_serializable("segkit")
class CrossEntropyDice(keras.losses.Loss):
    """Cross-entropy + Dice loss, for several classes (one-hot) or one channel (BCE + Dice).

    Parameters
    ----------
    from_logits : bool
        Whether ``y_pred`` still needs its sigmoid (one channel) or softmax.
    class_weights : sequence of float, optional
        Of the cross-entropy, a weight a class; for one channel two, of background and foreground.
    dice_weight, smooth, background : see :class:`Dice`.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18 (2021). LGG report (cross-entropy + Dice).
    """

    def __init__(
        self, from_logits=False, class_weights=None, dice_weight=1.0, smooth=1.0, background=True,
        name="cross_entropy_dice", **kwargs,
    ):  # fmt: skip
        super().__init__(name=name, **kwargs)
        self.settings = {
            "from_logits": bool(from_logits), "class_weights": class_weights and [float(w) for w in class_weights],
            "dice_weight": float(dice_weight), "smooth": float(smooth), "background": bool(background),
        }  # fmt: skip
        self.dice = Dice(smooth, background)
        self.weighted = WeightedCrossEntropy(class_weights) if class_weights else None

    def call(self, y_true, y_pred):
        y_true, y_pred = _float32(y_true, y_pred)
        one = y_pred.shape[-1] == 1
        if self.settings["from_logits"]:
            logits, y_pred = y_pred, ops.sigmoid(y_pred) if one else ops.softmax(y_pred, axis=-1)
        if one and self.weighted:
            both = [ops.concatenate([1 - y, y], axis=-1) for y in (y_true, y_pred)]
            entropy = ops.mean(self.weighted.call(*both))
        elif one:
            on, given = (logits, True) if self.settings["from_logits"] else (y_pred, False)
            entropy = ops.mean(ops.binary_crossentropy(y_true, on, from_logits=given))
        elif self.weighted:
            entropy = ops.mean(self.weighted.call(y_true, y_pred))
        else:
            entropy = ops.mean(ops.categorical_crossentropy(y_true, y_pred))
        return entropy + self.settings["dice_weight"] * ops.mean(self.dice.call(y_true, y_pred))

    def get_config(self):
        return super().get_config() | self.settings


@keras.saving.register_keras_serializable("segkit")
class GreyTargets(keras.losses.Loss):
    """BCE on logits against targets of 0 and 255, for comparison with a report whose code did so; never for new work.

    The loss max(x, 0) − 255 t x + log(1 + e^−|x|) has no lower bound: where t is 1 a logit x gains by growing for ever.

    References
    ----------
    Left-atrium report's code (STUDIES 1b, 3).
    """

    def __init__(self, white=255.0, name="grey_bce", **kwargs):
        super().__init__(name=name, **kwargs)
        self.white = float(white)

    def call(self, y_true, y_pred):
        y_true, logits = _float32(y_true, y_pred)
        return ops.maximum(logits, 0) - self.white * y_true * logits + ops.log1p(ops.exp(-ops.abs(logits)))

    def get_config(self):
        return super().get_config() | {"white": self.white}


_BY_NAME = {
    "cross_entropy": keras.losses.CategoricalCrossentropy,
    "weighted_cross_entropy": WeightedCrossEntropy,
    "focal": keras.losses.CategoricalFocalCrossentropy,
    "bce_logits": lambda **settings: keras.losses.BinaryCrossentropy(from_logits=True, **settings),
    "grey_bce": GreyTargets,
    "dice": Dice,
    "generalized_dice": GeneralizedDice,
    "tversky": Tversky,
    "focal_tversky": FocalTversky,
    "cross_entropy_dice": CrossEntropyDice,
    "content": Content,
}


@keras.saving.register_keras_serializable("segkit")
def soft_dice(y_true, y_pred):
    """Mean soft Dice of the foreground classes over a batch, as a metric during training (1 − :class:`Dice`)."""
    return 1 - Dice(background=False)(y_true, y_pred)


def names() -> list[str]:
    """Names that :func:`get` knows."""
    return sorted(_BY_NAME)


def get(name: str, **settings) -> keras.losses.Loss:
    """A loss by name; ValueError for an unknown one."""
    if name not in _BY_NAME:
        raise ValueError(f"no loss is called {name!r}; choose one of {', '.join(names())}")
    return _BY_NAME[name](**settings)


def _float32(y_true, y_pred):
    return ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")


def _foreground(y_true, y_pred, background: bool):
    return (y_true, y_pred) if background or y_pred.shape[-1] == 1 else (y_true[..., 1:], y_pred[..., 1:])

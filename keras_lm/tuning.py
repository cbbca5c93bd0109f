"""What of a model goes on learning when it begins with what another has learnt: all of it, its head alone, or little beside what is kept.

The last is LoRA: a large matrix stays as it is, and the product of two narrow ones, which starts at zero, is added to it. Keras' own layers
do it (`Dense.enable_lora`), and save the sum, so that a trained model is one like any other.

References:
    Hu et al. 2021, «LoRA: Low-Rank Adaptation of Large Language Models» (arXiv:2106.09685); Howard and Ruder 2018 (arXiv:1801.06146), on
    what to leave frozen. Article A2, pre-training and fine-tuning.
"""

from __future__ import annotations

import keras

from keras_lm.errors import UserError, unknown_name
from keras_lm.heads import body_of

TUNED = ("full", "head", "lora")


def tune(model: keras.Model, what: str = "full", *, rank: int = 8) -> None:
    """Lets a part of a model learn, and keeps the rest as it is.

    Args:
        model: A model with a head of `keras_lm.heads`; is changed.
        what: `"full"` (default): everything. `"head"`: what stands behind the body. `"lora"`: the head, and matrices of low rank beside
            those of a Transformer's blocks.
        rank: Of these; at least 1.

    Raises:
        UserError: an unknown word, or a body without blocks, which has no such matrices.

    Example:

    >>> from keras_lm.heads import classifier, text_body
    >>> model = classifier(text_body("transformer", 100, embedding_dim=32, num_layers=1, num_heads=2), 2)
    >>> tune(model, "head")
    >>> [weight.path for weight in model.trainable_variables]
    ['classes/kernel', 'classes/bias']
    """
    if what not in TUNED:
        raise unknown_name("tuned part", what, TUNED)
    if what == "full":
        return
    layers = [layer for layer in body_of(model)._flatten_layers(include_self=False) if not isinstance(layer, keras.layers.InputLayer)]
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    if what == "lora" and not dense:
        raise UserError("lora is for a transformer, whose blocks are made of matrices: let the head or everything learn")
    for layer in layers:
        if what == "head" or not any(True for _ in layer._flatten_layers(include_self=False)):  # those inside first, blocks by them
            layer.trainable = False
    if what == "lora":
        for layer in dense:
            layer.trainable = True
            layer.enable_lora(rank)
            if layer.bias is not None:
                layer.bias.trainable = False

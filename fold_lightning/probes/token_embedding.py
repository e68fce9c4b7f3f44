"""Token ids as inputs: which module embeds them, and their embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from fold_lightning.activations.evaluation import undisturbed
from fold_lightning.activations.replica import ModelCopy, original_module


@contextmanager
def noted_embeddings(model: nn.Module, ids: Tensor) -> Iterator[list[str]]:
    """Note the paths of the `nn.Embedding` modules that are called with these ids, on a replica of the model."""
    found: list[str] = []

    def note(path: str) -> object:
        def hook(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if given is not None and given.shape == ids.shape and torch.equal(given.long(), ids.long().to(given.device)):
                found.append(path)

        return hook

    handles = [
        module.register_forward_pre_hook(note(path), with_kwargs=True)  # type: ignore[arg-type]
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def has_embedding(model: nn.Module) -> bool:
    """Return whether a model has a module that takes token ids."""
    return any(isinstance(module, nn.Embedding) for module in model.modules())


def embed(model: nn.Module, path: str, ids: Tensor) -> Tensor:
    """Return the embeddings (B, ..., D) of token ids (B, ...) by the model's weights as they are now.

    Args:
        model: The user's model, which stays as it is.
        path: Path of the embedding.
        ids: Token ids, on any device.
    """
    embedding = original_module(model).get_submodule(path)
    assert isinstance(embedding, nn.Embedding)
    weight = embedding.weight
    ids = ids.to(weight.device)
    with undisturbed():
        if type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding._forward_hooks:
            return functional.embedding(ids, weight.detach())
        # A limit on norms is kept by writing into the weights, which must be those of a copy.
        is_read_only = embedding.max_norm is None
        copied = ModelCopy(
            embedding, weight.device, None if is_read_only else torch.float64, shares_parameters=is_read_only
        ).module
        result: Tensor = copied(ids)
        return result.detach().to(weight.dtype)

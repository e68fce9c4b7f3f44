"""Token ids as inputs: the module that embeds them, and their embeddings."""

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
    """Record the paths of the `nn.Embedding` modules of a replica that are called with these ids."""
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
    """Return whether a model has an `nn.Embedding`."""
    return any(isinstance(module, nn.Embedding) for module in model.modules())


def embed(model: nn.Module, path: str, ids: Tensor) -> Tensor:
    """Return the embeddings (B, ..., D) of token ids (B, ...), with the model's current weights.

    Args:
        model: The user's model, which is not changed.
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
        # `max_norm` is enforced by writing into the weights, so a copy is used.
        is_read_only = embedding.max_norm is None
        copied = ModelCopy(
            embedding, weight.device, None if is_read_only else torch.float64, shares_parameters=is_read_only
        ).module
        result: Tensor = copied(ids)
        return result.detach().to(weight.dtype)

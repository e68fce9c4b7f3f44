"""Distances and fingerprints of codes, against plain Python."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fold_lightning import (
    ActivationCodes,
    DistinctCodes,
    code_fingerprints,
    distinct_fingerprints,
    hamming_distance,
)
from fold_lightning import codes as module
from fold_lightning import fingerprints as hashing
from fold_lightning.codes import count_active
from fold_lightning.fingerprints import distinct_in_groups


def fingerprint(code: list[bool]) -> list[int]:
    """The hash of the docstring in Python's own integers."""
    words = [sum(bit << i for i, bit in enumerate(code[j : j + 32])) for j in range(0, len(code), 32)]
    stream = hashlib.shake_256(b"fold_lightning code fingerprints").digest(32 * (len(words) + 1))
    numbers = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]
    quarters = [(numbers[k] + sum(numbers[4 * (j + 1) + k] * w for j, w in enumerate(words))) % 2**64 >> 32 for k in range(4)]
    halves = (quarters[0] << 32 | quarters[1], quarters[2] << 32 | quarters[3])
    return [half - 2**64 * (half >= 2**63) for half in halves]


@pytest.mark.parametrize("units", [1, 31, 32, 33, 512, 1000])
def test_fingerprints_are_the_documented_hash(units: int) -> None:
    bits = torch.rand(40, units) > 0.5
    assert code_fingerprints(bits).tolist() == [fingerprint(code) for code in bits.tolist()]


def test_fingerprints_are_the_same_forever() -> None:
    """States of old runs are comparable only while the hash stays."""
    bits = torch.arange(70)[None] % 3 == 0
    assert code_fingerprints(bits).tolist() == [FOREVER]


FOREVER = [-7824024416451250956, -5580906569388006484]


def test_a_slice_of_codes_has_the_fingerprints_of_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = torch.rand(50, 77) > 0.5
    expected = code_fingerprints(bits[3:, 5:41].clone())
    assert torch.equal(code_fingerprints(bits[3:, 5:41]), expected)
    monkeypatch.setattr(hashing, "HASHED_BYTES", 300)
    assert torch.equal(code_fingerprints(bits[3:, 5:41]), expected)


def test_single_bits_and_their_pairs_all_have_fingerprints_of_their_own() -> None:
    units = 300
    one = torch.eye(units).bool()
    first, second = torch.combinations(torch.arange(units)).T
    bits = torch.cat([torch.zeros(1, units).bool(), one, one[first] | one[second]])
    fingerprints = code_fingerprints(bits)
    for half in fingerprints.T:
        assert len(half.unique()) == len(bits)
    # Each of the 128 bits is set in about half of them: with 45,151 codes a share of .5 +- .0024.
    share = torch.stack([(fingerprints >> i & 1).double().mean(0) for i in range(64)])
    assert (share - 0.5).abs().max() < 0.0024 * 5


def test_no_inputs_and_no_units() -> None:
    assert code_fingerprints(torch.zeros(0, 5).bool()).shape == (0, 2)
    assert len(code_fingerprints(torch.zeros(3, 0).bool()).unique(dim=0)) == 1


@pytest.mark.parametrize(
    ("bits", "error"), [(torch.zeros(2, 3), TypeError), ([True], TypeError), (torch.zeros(3).bool(), ValueError)]
)
def test_fingerprints_of_invalid_codes_are_refused(bits: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="Codes must"):
        code_fingerprints(bits)


@pytest.mark.parametrize("given", [torch.zeros(3, 3).long(), torch.zeros(3, 2), torch.zeros(3).long(), [[1, 2]]])
def test_invalid_fingerprints_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"must be int64 \(B, 2\), got"):
        distinct_fingerprints(given)


def test_distances_of_invalid_codes_are_refused() -> None:
    a, b = torch.zeros(3, 5).bool(), torch.zeros(4, 5).bool()
    with pytest.raises(ValueError, match=r"leading dimensions of codes must broadcast, got shapes \(3, 5\) and \(4, 5\)"):
        hamming_distance(a, b)
    assert hamming_distance(a[:, None], b).shape == (3, 4)
    with pytest.raises(TypeError, match="bool tensor, got torch.float32"):
        hamming_distance(a.float(), a)
    with pytest.raises(TypeError, match="got ActivationCodes: take the `bits`"):
        hamming_distance(ActivationCodes(a, {}), a)
    for threshold in (0, 1.5, "2", True):
        with pytest.raises(ValueError, match="`threshold` must be an integer of at least 1, got"):
            hamming_distance(a, a, threshold=threshold)


def test_distinct_fingerprints_are_torch_unique_also_where_first_halves_collide() -> None:
    values = torch.randint(-2, 3, (500, 2))  # interleaved second halves behind equal first ones
    for fingerprints in (values, values.unique(dim=0), values[:1], values[:0]):
        distinct, counts = distinct_fingerprints(fingerprints)
        if len(fingerprints):
            expected, expected_counts = torch.unique(fingerprints, dim=0, return_counts=True)
            assert torch.equal(distinct, expected) and torch.equal(counts, expected_counts)
        else:
            assert len(distinct) == len(counts) == 0


@pytest.mark.parametrize("sorted_at_once", [10, 2**21])
def test_distinct_fingerprints_of_groups_are_those_of_sets(sorted_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "SORTED_AT_ONCE", sorted_at_once)
    values, groups = torch.randint(-2, 3, (300, 2)) << 61, torch.randint(4, (300,))  # first halves collide
    for count in (300, 11, 1, 0):
        distinct, group = distinct_in_groups(values[:count], groups[:count])
        found = sorted((*pair, of) for pair, of in zip(distinct.tolist(), group.tolist(), strict=True))
        expected = {(*pair, of) for pair, of in zip(values[:count].tolist(), groups[:count].tolist(), strict=True)}
        assert found == sorted(expected)


def test_many_fingerprints_are_sorted_in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = code_fingerprints(torch.rand(900, 8) > 0.5)
    expected = distinct_fingerprints(fingerprints)
    monkeypatch.setattr(hashing, "SORTED_AT_ONCE", 100)
    assert all(torch.equal(a, b) for a, b in zip(distinct_fingerprints(fingerprints), expected, strict=True))
    assert len(expected[0]) < 256 and expected[1].sum() == 900


def distances_by_loops(a: list[list[bool]], b: list[list[bool]]) -> list[list[int]]:
    return [[sum(x != y for x, y in zip(first, second, strict=True)) for second in b] for first in a]


@pytest.mark.parametrize("sizes", [(13, 7), (40, 33), (32, 32), (31, 200)])
@pytest.mark.parametrize("max_bytes", [300, 5000, 2**28])
def test_distances_of_all_pairs_are_those_of_loops(
    sizes: tuple[int, int], max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PAIR_BYTES", max_bytes)
    a, b = torch.rand(sizes[0], 21) > 0.5, torch.rand(sizes[1], 21) > 0.3
    expected = torch.tensor(distances_by_loops(a.tolist(), b.tolist()))
    assert torch.equal(hamming_distance(a[:, None], b), expected)
    assert torch.equal(hamming_distance(a, b[:, None]), expected.T)
    assert torch.equal(hamming_distance(a[:, None], b, threshold=5), expected.clamp(max=5))


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((40, 1), (50,)),
        ((50,), (40, 1)),
        ((1, 6, 1, 7), (8, 1, 5, 1)),
        ((6, 7, 1, 1), (8, 5)),
        ((40, 1, 1), (2, 50)),
        ((3, 40, 1), (3, 1, 50)),
        ((2, 3, 1, 40), (2, 3, 50, 1)),
        ((40, 3, 1, 5), (1, 3, 50, 5)),
        ((3, 40, 1), (1, 1, 50)),
        ((0, 40, 1), (0, 1, 50)),
        ((3, 1, 2), (3, 20, 2)),
    ],
)
@pytest.mark.parametrize("max_bytes", [300, 2**28])
def test_a_product_has_the_shape_of_broadcasting(
    a_shape: tuple[int, ...], b_shape: tuple[int, ...], max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PAIR_BYTES", max_bytes)
    a, b = torch.rand(*a_shape, 9) > 0.5, torch.rand(*b_shape, 9) > 0.5
    assert torch.equal(hamming_distance(a, b), (a != b).sum(-1))
    assert hamming_distance(a[..., :0], b[..., :0]).shape == torch.broadcast_shapes(a_shape, b_shape)


def test_distances_are_exact_where_floats_would_round(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.ones(32, 1, 3001).bool(), torch.zeros(32, 3001).bool()
    b[:, :2999] = True  # the product is 2,999, which bfloat16 rounds to 2,992
    with torch.autocast("cpu", torch.bfloat16):
        assert (hamming_distance(a, b) == 2).all()
    monkeypatch.setattr(module, "MAX_EXACT_FLOAT", 100)
    assert (hamming_distance(a, b) == 2).all()


@pytest.mark.parametrize("inputs", [0, 1, 255, 256, 1000])
def test_active_units_are_counted_without_overflow(inputs: int) -> None:
    bits = torch.rand(inputs, 3) > torch.tensor([0.5, -1, 2])
    assert count_active(bits).tolist() == [sum(unit) for unit in bits.T.tolist()]
    assert count_active(bits)[1:].tolist() == [inputs, 0]


@pytest.mark.parametrize(("a_shape", "b_shape"), [((200, 1), (200,)), ((4, 50, 1), (4, 1, 50)), ((1, 8, 5, 1), (1, 1, 1, 999))])
def test_all_pairs_take_no_memory_for_units(
    a_shape: tuple[int, ...], b_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor that is made on the way has a number for each unit of each pair."""
    a, b = torch.rand(*a_shape, 60) > 0.5, torch.rand(*b_shape, 60) > 0.5
    monkeypatch.setattr(module, "MAX_PAIR_BYTES", 2**16)
    with LargestTensor() as seen:
        distance = hamming_distance(a, b)
    assert seen.numbers <= max(distance.numel(), a.numel(), b.numel(), 2**16)
    assert torch.equal(distance, (a != b).sum(-1))


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor of a computation has in memory."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


class TestDistinctCodes:
    def test_it_counts_what_torch_unique_counts(self) -> None:
        bits = torch.randint(2, (3000, 9)).bool()
        mask = torch.rand(3000) > 0.7
        distinct, correct = DistinctCodes(), DistinctCodes()
        for some, chosen in zip(bits.split(700), mask.split(700), strict=True):
            distinct.update(some)
            correct.update(some, mask=chosen)
        assert distinct.compute() == len(bits.unique(dim=0)) and distinct.num_inputs == 3000
        assert correct.compute() == len(bits[mask].unique(dim=0)) and correct.num_inputs == mask.sum()
        assert distinct.per_layer() == {}
        distinct.reset()
        with pytest.warns(UserWarning, match="was called before the ``update``"):
            assert distinct.compute() == 0 and distinct.num_inputs == 0
        distinct.update(bits[:, :4])
        assert distinct.compute() == 16

    def test_the_state_grows_with_distinct_codes_not_with_inputs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from fold_lightning.metrics import distinct_codes

        monkeypatch.setattr(distinct_codes, "MIN_PENDING", 1000)
        bits = torch.randint(2, (100, 40)).bool()
        distinct, largest = DistinctCodes(), 0
        for _ in range(300):
            distinct.update(bits[torch.randint(100, (64,))])
            largest = max(largest, sum(map(len, distinct.fingerprints)))
        assert distinct.compute() == 100 and distinct.num_inputs == 300 * 64
        assert largest <= 100 + 1000 + 64

    def test_codes_and_masks_that_do_not_fit_are_refused(self) -> None:
        bits = torch.zeros(3, 4).bool()
        distinct = DistinctCodes()
        distinct.update(bits)
        with pytest.raises(ValueError, match=r"same units and layers as those before, got 3 units in \[\] after 4"):
            distinct.update(bits[:, :3])
        with pytest.raises(ValueError, match="entry for each of 3 inputs"):
            distinct.update(bits, mask=torch.ones(2).bool())
        with pytest.raises(TypeError, match=r"`mask` must be a bool tensor, got torch.float32"):
            distinct.update(bits, mask=torch.ones(3))
        assert distinct.compute() == 1 and distinct.num_inputs == 3

"""Log-probabilities of response tokens against torch's own log-softmax in float64."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nuggets.engine.response_log_probs import log_probs, response_log_probs, tile_buffer

WIDTH = 16


class HalvingHead(nn.Linear):
    """A head that uses its weights in another way, as heads with scaled or capped logits do."""

    def forward(self, states: Tensor) -> Tensor:
        return 0.5 * super().forward(states)


def build_head(vocabulary: int, *, bias: bool = False, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    """Logits with a spread of about 4 nats."""
    generator = torch.Generator().manual_seed(vocabulary)
    head = kind(WIDTH, vocabulary, bias=bias).requires_grad_(False)
    head.weight.copy_(torch.randn(vocabulary, WIDTH, generator=generator))
    if bias:
        head.bias.copy_(2.0 * torch.randn(vocabulary, generator=generator))
    return head


def states_and_targets(rows: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[-1] = vocabulary - 1  # in the last, incomplete tile
    return torch.randn(rows, WIDTH, generator=generator), targets


def exact_log_probs(head: nn.Linear, hidden: Tensor, targets: Tensor, *, factor: float = 1.0) -> Tensor:
    logits = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        logits += head.bias.double()
    return (factor * logits).log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1)


def assert_equal_to_float64(found: Tensor, expected: Tensor, within: float = 2e-5) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=within, rtol=1e-6)


# With 1024 rows and more a tile is 1024 columns wide, with 300 rows 3495: several tiles, the last one incomplete.
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "vocabulary"), [(1, 11), (1, 5000), (7, 512), (300, 5000), (1024, 1500), (1025, 3000), (2500, 1025)]
)
def test_log_probs_are_those_of_a_softmax_over_the_whole_vocabulary(rows: int, vocabulary: int, bias: bool) -> None:
    head = build_head(vocabulary, bias=bias)
    hidden, targets = states_and_targets(rows, vocabulary)
    assert_equal_to_float64(response_log_probs(head, hidden, targets), exact_log_probs(head, hidden, targets))


@pytest.mark.parametrize("rows", [1, 600, 1025])
def test_a_head_that_is_more_than_its_weights_is_called(rows: int) -> None:
    head = build_head(1500, bias=True, kind=HalvingHead)
    hidden, targets = states_and_targets(rows, 1500)
    found = response_log_probs(head, hidden, targets)
    assert_equal_to_float64(found, exact_log_probs(head, hidden, targets, factor=0.5))
    as_plain_weights = exact_log_probs(head, hidden, targets)
    assert (found - as_plain_weights).abs().max() > 1.0


def test_any_module_may_be_the_head() -> None:
    first, second = build_head(WIDTH), build_head(900, bias=True)
    hidden, targets = states_and_targets(300, 900)
    found = response_log_probs(nn.Sequential(first, second), hidden, targets)
    assert_equal_to_float64(found, exact_log_probs(second, first(hidden), targets), within=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_a_16_bit_model_are_not_rounded_to_16_bits(dtype: torch.dtype, bias: bool) -> None:
    head = build_head(3000, bias=bias).to(dtype)
    hidden, targets = states_and_targets(1025, 3000)
    hidden = hidden.to(dtype)
    expected = exact_log_probs(head, hidden, targets)
    assert_equal_to_float64(response_log_probs(head, hidden, targets), expected)
    rounded = log_probs(head(hidden), targets)
    assert (rounded - expected).abs().max() > 0.003  # what the test above would find otherwise


def test_a_float64_model_is_read_off_in_float32() -> None:
    head = build_head(1500, bias=True).double()
    hidden, targets = states_and_targets(300, 1500)
    assert_equal_to_float64(response_log_probs(head, hidden.double(), targets), exact_log_probs(head, hidden, targets))


@pytest.mark.parametrize("kind", [nn.Linear, HalvingHead])
def test_hidden_states_that_are_not_finite_affect_their_rows_only(
    kind: type[nn.Linear],
) -> None:
    head = build_head(3000, kind=kind)
    hidden, targets = states_and_targets(1100, 3000)
    hidden[3, 0] = float("nan")
    hidden[5, 1] = float("inf")
    hidden[7] = float("-inf")
    hidden[1099] = float("nan")
    found = response_log_probs(head, hidden, targets)
    assert found.isfinite().logical_not().nonzero().flatten().tolist() == [3, 5, 7, 1099]


def test_logits_of_ten_thousand_are_neither_infinite_nor_lost() -> None:
    """exp(10000) is no float; without the tile's peak taken off first, all of this would be infinite."""
    head = build_head(3000)
    hidden, targets = states_and_targets(1025, 3000)
    hidden *= 1e4 / (hidden @ head.weight.T).abs().amax(dim=1, keepdim=True)
    logits = hidden @ head.weight.T
    assert logits.abs().amax(dim=1).min() > 9_990
    assert logits.amin() < -9_990
    targets[: len(targets) // 2] = logits.argmax(dim=1)[: len(targets) // 2]
    found = response_log_probs(head, hidden, targets)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), exact_log_probs(head, hidden, targets), atol=0.02, rtol=1e-5)


def test_log_probs_by_hand() -> None:
    """Logits 0 and ln 3 are probabilities of a quarter and three quarters."""
    found = log_probs(torch.tensor([[0.0, math.log(3)], [7.0, 7.0]]), torch.tensor([1, 0]))
    torch.testing.assert_close(found.exp(), torch.tensor([0.75, 0.5]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_buffer_is_made_for_products_that_do_not_write_into_it(device: str, dtype: torch.dtype) -> None:
    """256 MiB of a GPU. Tensors without contents say so without one."""
    with FakeTensorMode():
        buffer = tile_buffer(torch.empty(7, WIDTH, device=device, dtype=dtype), 512)
    if device == "cuda" and dtype != torch.float32:
        assert buffer is None
    else:
        assert buffer is not None
        assert (buffer.numel(), buffer.dtype, buffer.device.type) == (7 * 512, torch.float32, device)

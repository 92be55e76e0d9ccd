"""Attention of one token a row gives what torch's own kernel gives."""

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from deployments.engines.text.layers.attention import step_attention


class Heads(torch.nn.Module):
    is_causal = False
    num_key_value_groups = 2


def test_one_token_a_row_attends_as_torch_s_kernel_does() -> None:
    """Grouped heads, rows of unlike length."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 1, 16), torch.randn(3, 2, 7, 16), torch.randn(3, 2, 7, 16)
    hidden = torch.arange(7) > torch.tensor([2, 6, 4])[:, None]
    mask = torch.zeros(3, 7).masked_fill(hidden, -torch.inf)[:, None, None]
    expected, _ = sdpa_attention_forward(Heads(), query, key, value, mask)
    given, _ = step_attention(Heads(), query, key, value, mask)
    assert torch.allclose(given, expected, atol=1e-5)

"""The output of a step names each row's best token, and the rows that are not finite."""

import torch

from deployments.engines.text.decoders.decoder import step_output


def test_a_row_with_nan_or_infinity_is_not_finite_and_others_are() -> None:
    logits = torch.tensor([[0.0, 3.0], [torch.nan, 1.0], [torch.inf, 1.0], [2.0, -torch.inf]])
    output = step_output(logits)
    assert output.finite == [True, False, False, True]
    assert (output.best[0], output.best[3]) == (1, 0)


def test_a_part_of_the_rows_keeps_their_order() -> None:
    output = step_output(torch.tensor([[0.0, 3.0], [5.0, 1.0], [2.0, 1.0]]))
    part = output.of([2, 0])
    assert part.best == [0, 1]
    assert part.logits.tolist() == [[2.0, 1.0], [0.0, 3.0]]
    assert output.of([0, 1, 2]) is output

"""Options of MACE that are refused."""

import pytest

from lesjax.models.mace import MACEConfig


@pytest.mark.parametrize(
    ("text", "channels", "orders"),
    [("64x0e", 64, [0, 0]), ("128x0e+128x1o", 128, [1, 0]), (" 8x0e + 8x1o + 8x2e", 8, [2, 0])],
)
def test_irreps(text, channels, orders):
    config = MACEConfig(hidden_irreps=text)
    assert config.channels == channels
    assert [config.max_l(i) for i in range(2)] == orders
    assert MACEConfig(hidden_irreps=text, num_interactions=1).max_l(0) == orders[0]


@pytest.mark.parametrize("text", ["64", "64x0e+32x1o", "64x0o", "64x0e+64x1e", "64x1o", "64x0e+64x2e", "0x0e", ""])
def test_irreps_that_are_refused(text):
    with pytest.raises(ValueError, match="`hidden_irreps` must have the same number of channels for each order"):
        MACEConfig(hidden_irreps=text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_irreps": "8x0e+8x1o", "max_ell": 0}, "has order 1, more than `max_ell` = 0: raise that"),
        ({"hidden_irreps": "9999x0e"}, "at most 1024 channels"),
        ({"interaction_first": "residual"}, "`interaction_first` must be 'RealAgnosticResidualInteractionBlock', 'R"),
        (
            {"interaction": "RealAgnosticInteractionBlock"},
            "`interaction` must be 'RealAgnosticResidualInteractionBlock' o",
        ),
        ({"distance_transform": "Soft"}, "`distance_transform` must be 'None' or 'Agnesi'"),
        ({"radial_type": "chebyshev"}, "`radial_type` must be 'bessel' or 'gaussian'"),
        ({"correlation": 5}, "`correlation` must lie from 1 to 4"),
        ({"avg_num_neighbors": 0.0}, "`avg_num_neighbors` must be positive"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MACEConfig(**options)

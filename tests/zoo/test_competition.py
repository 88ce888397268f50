import numpy as np

from zoo_ray.zoo.competition import competition, mean_competition

ACCURACY = {
    (0,): [0.5],
    (1,): [0.75],
    (2,): [1.0],
    (0, 1): [0.75, 0.5],
    (0, 2): [0.5, 0.75],
    (1, 2): [1.0, 1.0],
}


def test_gains_are_what_a_partner_adds():
    found = competition(ACCURACY, tasks=3)
    expected = [[np.nan, 0.25, 0.0], [-0.25, np.nan, 0.25], [-0.25, 0.0, np.nan]]
    np.testing.assert_array_equal(found.gain, expected)
    np.testing.assert_array_equal(found.alone, [0.5, 0.75, 1.0])
    np.testing.assert_array_equal(found.helped, [0.125, 0.0, -0.125])
    np.testing.assert_array_equal(found.helps, [-0.25, 0.125, 0.125])
    assert found.positive_share == 2 / 6
    assert found.asymmetry == (0.5 + 0.25 + 0.25) / 3


def test_the_mean_is_over_seeds():
    other = competition({(0,): [0.5], (1,): [0.5], (2,): [0.5]} | PAIRS, tasks=3)
    mean = mean_competition([competition(ACCURACY, tasks=3), other])
    np.testing.assert_array_equal(mean.alone, [0.5, 0.625, 0.75])
    assert mean.gain[0, 1] == (0.25 + 0.0) / 2


PAIRS = {pair: [0.5, 0.5] for pair in ((0, 1), (0, 2), (1, 2))}

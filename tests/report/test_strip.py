import numpy as np
import pytest

from spaars.report.strip import MOVED, Frame, frame, strip
from spaars.tasks import get_task


def simulated(task, steps=0):
    """The env and its frame after random actions."""
    env = get_task(task).make_env()
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    return env.unwrapped, frame(env.unwrapped.model, env.unwrapped.data, steps)


def test_hoppers_links_are_its_four_capsules():
    env, now = simulated("hopper-medium", 5)
    assert now.links.shape == (4, 2, 3)
    middles = now.links.mean(1)
    geoms = [i for i in range(env.model.ngeom) if env.model.geom_bodyid[i] > 0]
    np.testing.assert_allclose(middles, env.data.geom_xpos[geoms], atol=1e-9)
    lengths = np.linalg.norm(now.links[:, 0] - now.links[:, 1], axis=-1)
    np.testing.assert_allclose(lengths, 2.0 * env.model.geom_size[geoms, 1], rtol=1e-6)


def test_a_frame_is_a_copy():
    env, now = simulated("hopper-medium")
    links = now.links.copy()
    env.step(np.ones(3))
    np.testing.assert_array_equal(now.links, links)
    assert not np.array_equal(frame(env.model, env.data, 1).links, links)


def still(step, x=0.0, site=0.0, caption=""):
    links = np.array([[[x, 0.0, 0.0], [x, 0.0, 1.0]]])
    return Frame(step, links, np.array([[site, 0.0, 0.5]]), caption)


def test_a_site_that_moved_is_drawn_from_where_it_was():
    figure = strip({"": [still(0), still(1, site=0.5 * MOVED), still(2, site=2.0 * MOVED)]})
    trails = [
        [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 0.5]
        for ax in figure.axes
    ]
    assert [len(found) for found in trails] == [0, 0, 1]
    np.testing.assert_allclose(trails[2][0].get_xdata(), [0.0, 2.0 * MOVED])


@pytest.mark.parametrize(("distance", "follows"), [(1.0, False), (9.0, True)])
def test_panels_follow_a_robot_that_roams(distance, follows):
    figure = strip({"": [still(0), still(1, x=distance, caption="far")]})
    first, last = figure.axes
    assert (first.get_xlim() != last.get_xlim()) == follows
    for ax, x in ((first, 0.0), (last, distance)):
        assert ax.get_xlim()[0] < x < ax.get_xlim()[1]
    assert last.get_title() == "step 1\nfar"


def test_a_row_may_end_early():
    figure = strip({"a": [still(0), still(1)], "b": [still(0)]})
    assert [ax.axison for ax in figure.axes] == [True, True, True, False]

"""Learning online in a loop that is the user's: the robot's, not an env's."""

from spaars.own_loop.learner import OnlineLearner
from spaars.own_loop.records import Acted

__all__ = ["Acted", "OnlineLearner"]

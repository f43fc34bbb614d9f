"""Learning online in a loop that is the user's: the robot's, not an env's."""

from spaars.own_loop.learner import Acted, OnlineLearner

__all__ = ["Acted", "OnlineLearner"]

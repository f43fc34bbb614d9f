"""Behaviour priors: what the data would do, as a decodable latent space."""

from spaars.priors.base import BehaviourPrior
from spaars.priors.cvae import CVAE, PriorConfig, cvae_loss

__all__ = ["CVAE", "BehaviourPrior", "PriorConfig", "cvae_loss"]

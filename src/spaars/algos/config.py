"""Hyper-parameters of the agent: the offline start and the online learner."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """The offline start: IQL on raw actions, both policies by weighted regression."""

    updates: int = 50_000
    """IQL updates before the first online step."""
    batch_size: int = 256
    """Transitions per update of the prior and of IQL."""
    learning_rate: float = 3e-4
    """Adam's step size for the prior and IQL."""
    expectile: float = 0.7
    """Expectile of Q that V regresses to."""
    temperature: float = 0.3
    """Sharpness of the regression weights exp(temperature * A / mean|A|)."""
    tau: float = 0.02
    """Target critics move by this fraction per offline update. IQL's 0.005 leaves the values far
    too low after tens of thousands of updates, and the weights all noise (docs/lab-notebook.md)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Networks, critics and online losses."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of policies, value and critics."""
    critics: int = 5
    """Ensemble size E; online, the minimum over all is every target and every policy's aim."""
    learning_rate: float = 1e-3
    """Adam's step size at the first online step, all networks."""
    learning_rate_end: float = 3e-4
    """Adam's step size once annealed."""
    learning_rate_steps: int = 10_000
    """Environment steps over which the step size falls from the one to the other."""
    discount: float = 0.99
    """Discount per environment step."""
    tau: float = 0.01
    """Target critics move by this fraction per online update."""
    average_tau: float = 0.001
    """Averaged policies, which are evaluated and deployed, move by this fraction per update."""
    batch_size: int = 128
    """Transitions per online update."""
    latent_entropy_scale: float = 0.5
    """Target entropy of the latent policy = -scale * k (nats), or the offline policy's if lower."""
    initial_temperature: float = 0.01
    """Entropy temperature of the latent policy at the first online step (units of return)."""
    warmup_steps: int = 500
    """First environment steps whose updates train the critics only: the policies stay put."""
    regression_weight: float = 1.0
    """Weight of the advantage-weighted regression in the latent loss when online starts."""
    regression_steps: int = 1_000
    """Environment steps over which that weight falls to 0 after the warm-up."""
    cloning_weight: float = 1.0
    """Weight of cloning in the raw loss until the hand-over."""
    cloning_weight_end: float = 0.001
    """Weight of cloning once annealed. Per squared error it counts 1 / variance of the policy, some
    hundredfold, against a Q scaled to 1: with 0.1 the raw policy stays a clone."""
    cloning_steps: int = 10_000
    """Environment steps after the hand-over over which the cloning weight is annealed."""

"""The two parameters of each weight of Sign-In, balanced again and again."""

from ...checks import check_ints
from ...latent import SignInConv
from ...registry import HOOKS
from ...run import PabRunner, RunHook


@HOOKS.register_module()
class SignInHook(RunHook):
    """Rebalance every layer of the converter :class:`~pab.latent.SignIn` as an epoch begins; the network stays.

    Args:
        every_epochs: before every how many epochs, the first included; at least 1.

    Raises:
        ValueError: before anything is trained: a network without such layers.

    Source: Gadhikar et al. 2025 (arXiv 2504.12801).
    """

    priority = 'HIGH'

    def __init__(self, every_epochs: int = 1) -> None:
        check_ints('SignInHook', every_epochs=every_epochs)
        self.every_epochs = every_epochs
        self._layers: list[SignInConv] = []

    def before_train(self, runner: PabRunner) -> None:
        self._layers = [layer for layer in runner.network.modules() if isinstance(layer, SignInConv)]
        if not self._layers:
            raise ValueError(
                "SignInHook: the network has no layers of SignIn; set model.converter=dict(type='SignIn'), or drop the "
                'hook'
            )

    def before_train_epoch(self, runner: PabRunner) -> None:
        begins = runner.iter == runner.epoch * len(runner.train_dataloader)  # a resumed run may begin in its middle
        if begins and runner.epoch % self.every_epochs == 0:
            for layer in self._layers:
                layer.rebalance_()

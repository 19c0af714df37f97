"""mmengine's runner with a short console log and a config that is checked before anything is built."""

import logging

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from ..registry import RUNNERS
from .config import check_config


@RUNNERS.register_module()
class PabRunner(Runner):
    """The runner that ``tools/`` use.

    It differs from :class:`mmengine.runner.Runner` in three ways: a key of the config that nothing reads is an error;
    the console shows progress, results and warnings only, while the log file in the work dir has everything; and
    ``default_hooks=dict(name=None)`` also drops hooks that mmengine does not know.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'PabRunner':
        """Build a runner from a config.

        Raises:
            ValueError: the config has a key that nothing reads.
        """
        check_config(cfg)
        return super().from_cfg(cfg)

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs) -> MMLogger:
        """Build mmengine's logger and keep its console output short."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler and not any(
                isinstance(f, ConsoleFilter) for f in handler.filters
            ):
                handler.addFilter(ConsoleFilter())
        return logger

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register default hooks; None drops one, whoever it comes from."""
        known = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
        super().register_default_hooks(
            {name: hook for name, hook in (hooks or {}).items() if hook is not None or name in known}
        )


class ConsoleFilter(logging.Filter):
    """Let through what a person watching a run wants: progress, results, what pab reports, and every warning.

    What is kept from the console (environment, hook tables, the merged config) stands in the log file.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the console shows a record."""
        path, text = record.pathname.replace('\\', '/'), record.getMessage()
        if '/mmengine/' not in path:
            return True
        if record.levelno >= logging.WARNING:
            return 'will be deprecated' not in text  # of its own functions, which it calls itself
        return path.endswith('/hooks/logger_hook.py') and not text.startswith('Exp name:')

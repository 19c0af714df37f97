"""Where configs and zoo are: beside the package in a checkout, inside of it in a wheel. All else is in setup.cfg."""

from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = ['pab.configs', *(f'pab.configs.{name}' for name in find_namespace_packages('configs', ['*__pycache__*']))]
setup(
    packages=[*find_packages(include=['pab*']), *CONFIGS, 'pab.zoo'],
    package_dir={'pab.configs': 'configs', 'pab.zoo': 'zoo'},
)

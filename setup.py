"""The distribution `chaostoolkit-orca`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "chaosorca" / "__init__.py").read_text(), re.MULTILINE)[1]

setup(
    name="chaostoolkit-orca",
    version=VERSION,
    description="Chaos Toolkit extension: faults on system calls of running, untouched Docker containers",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["chaosorca", "chaosorca.*"]),
    package_data={
        "chaosorca": ["py.typed"],
        "chaosorca.model": ["*.tsv"],
        "chaosorca.agent": ["bpf/*", "injectors/native/*"],
        "chaosorca.engine": ["images/*/Dockerfile", "images/*/requirements.txt"],
        "chaosorca.report": ["*.css"],
    },
    install_requires=["chaostoolkit-lib>=1.44", "click", "docker>=7.1", "logzero", "requests"],
    extras_require={
        "dev": [
            "capstone",
            "chaostoolkit",
            "mypy",
            "prometheus-client",
            "pytest",
            "ruff",
            "setuptools>=69",
            "types-requests",
            "wheel",
        ],
    },
    entry_points={"console_scripts": ["chaosorca = chaosorca.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Monitoring",
    ],
)

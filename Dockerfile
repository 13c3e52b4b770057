# One image for every role: prometheus beat, worker, web, flower, db upgrade, replay, ...
FROM python:3.11-slim-bookworm AS build
# Where pip looks, if not in its usual index. They stay in this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
RUN python -m venv /opt/prometheus
ENV PATH=/opt/prometheus/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What it depends on changes seldom, and is a layer of its own.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        >requirements.txt \
    && python -m pip install --constraint constraints.txt --requirement requirements.txt
# What builds it, apart: left to itself, pip would start another pip for that, with the addresses of
# its indexes, and the passwords in them, on its command line.
RUN python -m venv /opt/build \
    && python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
        >build-requirements.txt \
    && /opt/build/bin/python -m pip install --constraint constraints.txt --requirement build-requirements.txt
COPY . .
RUN /opt/build/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
    && python -m pip install --no-deps --no-index dist/*.whl \
    # Nothing is installed later.
    && python -m pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
# The first process of every container: it hands signals on, and buries what a job leaves running.
RUN apt-get update --quiet \
    && apt-get install --yes --quiet --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
RUN groupadd --gid 10001 prometheus \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin prometheus \
    # A new volume that is mounted here belongs to whom the folder does.
    && install -d -o prometheus -g prometheus /secrets /work
COPY docker/make-secrets /usr/local/bin/
COPY --from=build /opt/prometheus /opt/prometheus
ENV PATH=/opt/prometheus/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, so that whoever forbids root can see that it is none.
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["tini", "--"]
CMD ["prometheus", "--help"]

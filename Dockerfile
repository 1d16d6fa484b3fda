# One image for webserver, daemon and worker; docker-compose.yml says which is which. Everything in it is pinned: the base
# by its tag, the packages by constraints.txt.
#
# On Linux the default index brings torch with CUDA's libraries, and NVIDIA's container toolkit brings the driver's, so this
# base serves a GPU as it is. Another one with Python 3.11, such as a CUDA runtime that the machine has anyway, or a digest:
#   docker compose build --build-arg BASE=IMAGE
# For a machine without a GPU, a tenth of the size:
#   docker compose build --build-arg PIP_ARGS="--extra-index-url CPU_INDEX"
ARG BASE=python:3.11.14-slim-bookworm
# hadolint ignore=DL3006
FROM ${BASE}
ARG PIP_ARGS=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
# Without the code first, so that a change of it installs nothing anew. PIP_ARGS is several words.
# hadolint ignore=SC2086,DL3013
RUN mkdir ftm_assets && touch ftm_assets/__init__.py \
    && pip install --no-cache-dir $PIP_ARGS -c constraints.txt torch \
    && pip install --no-cache-dir $PIP_ARGS -c constraints.txt -e .
COPY dagster.yaml workspace.yaml ./
COPY ftm_assets ftm_assets
RUN useradd --uid 1000 --create-home ftm && mkdir /ftm && chown ftm:ftm /ftm
# By number, so that who runs the image can see that it is not root.
USER 1000:1000
ENV FTM_HOME=/ftm \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["ftm"]
CMD ["--help"]

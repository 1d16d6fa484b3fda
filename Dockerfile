# One image for UI, daemon and GPU worker; docker-compose.yml says which is which.
# On Linux the default index brings torch with CUDA; for a machine without a GPU:
# docker compose build --build-arg PIP_ARGS="--extra-index-url CPU_INDEX"
FROM python:3.11-slim-bookworm
ARG PIP_ARGS=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
# Without the code first, so that a change of it installs nothing anew.
RUN mkdir ftm_assets && touch ftm_assets/__init__.py \
    && pip install --no-cache-dir $PIP_ARGS -c constraints.txt torch \
    && pip install --no-cache-dir $PIP_ARGS -c constraints.txt -e .
COPY dagster.yaml workspace.yaml ./
COPY ftm_assets ftm_assets
RUN useradd --create-home ftm && mkdir /ftm && chown ftm /ftm
USER ftm
ENV FTM_HOME=/ftm
ENTRYPOINT ["ftm"]
CMD ["--help"]

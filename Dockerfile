# One image for dashboard, workers and reaper; docker-compose.yml says which command each one runs.
# GPU workers: build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/cmr

# The dependencies first: a change of the code does not install them again.
COPY pyproject.toml constraints.txt README.md ./
RUN pip install -c constraints.txt uv \
    && pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" \
    && uv pip install --system --no-cache -c constraints.txt -r pyproject.toml

COPY cmr_core ./cmr_core
COPY worker ./worker
COPY app ./app
COPY migrations ./migrations
COPY studies ./studies
COPY .streamlit ./.streamlit

RUN useradd --create-home --uid 10001 cmr && mkdir -p /var/lib/cmr && chown cmr:cmr /var/lib/cmr
USER cmr
ENV CMR_HOME=/var/lib/cmr PYTHONPATH=/srv/cmr
VOLUME /var/lib/cmr
ENTRYPOINT ["python", "-P", "-m", "worker.cli"]
CMD ["--help"]

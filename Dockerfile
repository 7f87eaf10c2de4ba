# One image for every connector and agent; which one it is, the command says: twin connector mqtt, twin agent sink, …

# The full image has a compiler for the few dependencies that have no wheel for every platform.
FROM python:3.11 AS build
WORKDIR /build
RUN python -m venv /opt/process-twin
ENV PATH=/opt/process-twin/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Dependencies first: they change less often than the code.
COPY requirements.lock .
RUN pip install --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home twin \
    && install -d -o twin -g twin /home/twin/.config /home/twin/.local/state
COPY --from=build /opt/process-twin /opt/process-twin
ENV PATH=/opt/process-twin/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba TWIN_METRICS_PORT=9100
USER twin
WORKDIR /home/twin
CMD ["twin", "--help"]

FROM python:3.11-slim

# CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY configs/constraints.txt configs/constraints.txt
RUN pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
    "$(grep '^torch==' configs/constraints.txt)"

COPY pyproject.toml README.md LICENSE ./
COPY compress compress
COPY router router
COPY serve serve
RUN pip install --no-cache-dir -c configs/constraints.txt .

RUN useradd --create-home --uid 10001 twinserve
USER twinserve
WORKDIR /home/twinserve

EXPOSE 8000
# A large bundle takes minutes to load; until then a failed check does not count.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# docker run -p 8000:8000 -v "$PWD/bundle:/bundle:ro" twinserve
ENTRYPOINT ["twinserve"]
CMD ["serve", "/bundle", "--host", "0.0.0.0"]

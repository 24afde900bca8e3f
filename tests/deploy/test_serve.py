import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml

ROOT = Path(__file__).parents[2]
SERVE = Path(sys.executable).with_name("serve")


@pytest.mark.timeout(240)
def test_serve_yaml_deploys_and_answers(launched, port, tmp_path):
    """All of deploy/serve.yaml but the GPU, and one proxy, because the "machines" share an address."""
    config = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    config["applications"][0]["args"]["device"] = "cpu"
    config |= {"proxy_location": "HeadOnly", "http_options": config["http_options"] | {"port": port}}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    address = ["--address", launched["RAY_API_SERVER_ADDRESS"]]
    subprocess.run([SERVE, "deploy", tmp_path / "serve.yaml", *address], env=launched, check=True)
    try:
        status = state(address, launched)
        while status["status"] in ("NOT_STARTED", "DEPLOYING"):
            time.sleep(1)
            status = state(address, launched)
        assert status["status"] == "RUNNING", status
        sample = next((ROOT / "sqllm/samples").rglob("*.flac"))
        url = f"http://127.0.0.1:{port}"
        assert requests.get(f"{url}/readyz", timeout=60).status_code == 200
        codes = []
        for key in ("wrong", "two"):
            with open(sample, "rb") as file:
                headers = {"Authorization": f"Bearer {key}"}
                answer = requests.post(f"{url}/v1/score", files={"file": file}, headers=headers, timeout=60)
            codes.append(answer.status_code)
        assert codes == [401, 200]
        assert 1 <= answer.json()["rows"][0]["mos"] <= 5
    finally:
        subprocess.run([SERVE, "shutdown", "--yes", *address], env=launched, check=True)


def state(address: list[str], environment: dict) -> dict:
    told = subprocess.run([SERVE, "status", *address], env=environment, capture_output=True, text=True, check=True)
    return yaml.safe_load(told.stdout)["applications"].get("sqllm", {"status": "NOT_STARTED"})

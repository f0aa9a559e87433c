"""The REST interface: everything it takes, how it describes itself, and a change of policy, over real HTTP."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from edge_node.schemas import Prediction
from offramp.bundle import Bundle
from tests.nodes import Pixels, check_refused, encoded, png, predict, running_edge


@pytest_asyncio.fixture(scope="module")
async def client(tiny_bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """An edge that runs all blocks itself."""
    async with running_edge(tiny_bundle, blocks="1-3") as client:
        yield client


@pytest.fixture
def image(tiny_pixels: Pixels) -> bytes:
    return png(tiny_pixels[0])


class TestWhatItTakes:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    async def test_any_format_and_size(self, client: httpx.AsyncClient, kind: str, mode: str) -> None:
        photo = Image.effect_noise((150, 100), 60).convert(mode)
        answer = await predict(client, encoded(photo, kind), **{"content-type": f"image/{kind.lower()}"})
        Prediction.model_validate(answer)

    async def test_every_way_to_send_an_image_gives_the_same_answer(
        self, client: httpx.AsyncClient, image: bytes
    ) -> None:
        text = base64.b64encode(image).decode()
        responses = [
            await client.post("/v1/predict", content=image),
            await client.post("/v1/predict", content=image, headers={"content-type": "image/png"}),
            await client.post(
                "/v1/predict", content=image, headers={"content-type": "application/x-www-form-urlencoded"}
            ),
            await client.post("/v1/predict", files={"image": ("a.png", image)}),
            await client.post("/v1/predict", json={"image": text}),
            await client.post("/v1/predict", json={"image": f"data:image/png;base64,{text}"}),
            await client.post("/v1/predict", json={"images": [text]}),
            await client.post("/v1/predict", json={"image": text[:20] + "\r\n" + text[20:]}),
            await client.post("/v1/predict", json={"image": text.replace("+", "-").replace("/", "_")}),
        ]
        assert {response.status_code for response in responses} == {200}
        assert len({response.json()["confidence"] for response in responses}) == 1

    async def test_several_images_as_json(self, client: httpx.AsyncClient, tiny_pixels: Pixels) -> None:
        texts = [base64.b64encode(png(pixels)).decode() for pixels in tiny_pixels[:3]]
        response = await client.post("/v1/predict", json={"images": texts})
        assert len(response.json()["predictions"]) == 3

    async def test_probabilities_come_on_demand_only(self, client: httpx.AsyncClient, image: bytes) -> None:
        assert "probabilities" not in await predict(client, image)
        response = await client.post("/v1/predict?probabilities=true", content=image)
        answer = response.json()
        assert math.isclose(sum(answer["probabilities"].values()), 1, abs_tol=1e-5)
        assert max(answer["probabilities"], key=answer["probabilities"].get) == answer["label"]

    async def test_a_request_id_is_kept_or_made_up(self, client: httpx.AsyncClient, image: bytes) -> None:
        assert (await predict(client, image, **{"x-request-id": "my.id-1"}))["request_id"] == "my.id-1"
        assert len((await predict(client, image))["request_id"]) == 16

    async def test_the_manifest_is_shown(self, client: httpx.AsyncClient, tiny_bundle: Bundle) -> None:
        response = await client.get("/v1/bundle")
        assert response.json()["bundle_id"] == tiny_bundle.manifest.bundle_id

    async def test_the_openapi_page_describes_every_path(self, client: httpx.AsyncClient) -> None:
        schema = (await client.get("/openapi.json")).json()
        assert set(schema["paths"]) == {
            "/",
            "/v1/predict",
            "/v1/policy",
            "/v1/access",
            "/v1/bundle",
            "/healthz",
            "/readyz",
            "/metrics",
        }
        assert schema["components"]["schemas"]["Prediction"]["examples"]

    async def test_the_openapi_page_describes_predictions_which_fastapi_never_sees(
        self, client: httpx.AsyncClient
    ) -> None:
        described = (await client.get("/openapi.json")).json()["paths"]["/v1/predict"]["post"]
        assert set(described["responses"]) == {
            *("200", "400", "401", "403", "408", "413", "415", "421", "431", "503", "504")
        }
        assert set(described["requestBody"]["content"]) == {
            "image/jpeg",
            "image/png",
            "image/webp",
            "multipart/form-data",
            "application/json",
        }
        as_json = described["requestBody"]["content"]["application/json"]
        assert (
            set(as_json["schema"]["properties"])
            == {"image", "images"}
            == {"image", *as_json["examples"]["several"]["value"]}
        )
        assert [each["name"] for each in described["parameters"]] == [
            "probabilities",
            "X-Request-ID",
            "X-Request-Timeout-Ms",
        ]
        answers = described["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
        assert [each["$ref"].rpartition("/")[2] for each in answers] == ["Prediction", "Predictions"]
        refused = described["responses"]["415"]["content"]["application/json"]["schema"]
        assert refused["$ref"].endswith("/Problem")

    async def test_the_openapi_page_says_whether_a_change_of_policy_is_kept(
        self, client: httpx.AsyncClient
    ) -> None:
        schema = (await client.get("/openapi.json")).json()
        told = schema["components"]["schemas"]["PolicyOut"]["properties"]["outlives_restart"]
        assert told["type"] == "boolean" and "EDGE_POLICY_FILE" in told["description"]
        assert set(schema["paths"]["/v1/policy"]["put"]["responses"]) == {
            *("200", "400", "401", "403", "408", "413", "415", "421", "422", "431", "500", "503")
        }

    async def test_the_api_page_needs_no_other_host(self, client: httpx.AsyncClient) -> None:
        page = (await client.get("/docs")).text
        addresses = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
        assert addresses and not [address for address in addresses if "//" in address]
        for address in addresses:
            assert (await client.get(address)).status_code == 200

    async def test_every_reference_of_the_openapi_page_leads_somewhere(
        self, client: httpx.AsyncClient
    ) -> None:
        text = (await client.get("/openapi.json")).text
        schema = json.loads(text)
        wanted = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
        assert wanted <= set(schema["components"]["schemas"])


class TestPolicy:
    async def test_thetas_are_read_and_changed_at_once(self, client: httpx.AsyncClient, image: bytes) -> None:
        changed = await client.put("/v1/policy", json={"thetas": [1.0, 0.0]})
        assert changed.json() == (await client.get("/v1/policy")).json()
        assert changed.json()["thetas"] == [1.0, 0.0] and changed.json()["operating_point"] is None
        assert (await predict(client, image))["exit"]["number"] == 2

    async def test_an_operating_point_is_chosen_by_name(self, client: httpx.AsyncClient) -> None:
        response = await client.put("/v1/policy", json={"operating_point": "full"})
        assert response.json()["operating_point"] == "full"

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ('{"thetas": [1.3, 0.5]}', "theta of exit 1 is 1.3"),
            ('{"thetas": [0.5, -0.1]}', "theta of exit 2 is -0.1"),
            ('{"thetas": [0.5]}', "needs 2"),
            ('{"thetas": [0.5, 0.5, 0.5]}', "needs 2"),
            ('{"thetas": [NaN, 0.5]}', "exit 1 is nan"),
            ('{"thetas": [Infinity, 0.5]}', "exit 1 is inf"),
            ('{"thetas": ["0.5", 0.5]}', "thetas.0"),
            ('{"thetas": [true, 0.5]}', "thetas.0"),
            ('{"thetas": null}', "expected either"),
            ('{"thetas": [0.5, 0.5], "operating_point": "full"}', "expected either"),
            ('{"operating_point": "nowhere"}', "no operating point 'nowhere'"),
            ('{"theta": [0.5, 0.5]}', "theta"),
            ('{"operating_point": "\\ud800"}', "\\ud800"),
            ("[]", "body"),
            ("{", "body"),
            ("", "body"),
        ],
    )
    async def test_what_does_not_fit_is_refused_and_changes_nothing(
        self, client: httpx.AsyncClient, body: str, says: str
    ) -> None:
        before = (await client.get("/v1/policy")).json()
        headers = {"content-type": "application/json"}
        response = await client.put("/v1/policy", content=body, headers=headers)
        check_refused(response, 422, says)
        assert (await client.get("/v1/policy")).json() == before

    async def test_a_change_that_is_far_too_long_is_not_read(self, client: httpx.AsyncClient) -> None:
        check_refused(await client.put("/v1/policy", content=b"[" * 20_000_000), 413, "65536")

    async def test_what_a_stranger_sent_is_not_sent_back_whole(self, client: httpx.AsyncClient) -> None:
        response = await client.put("/v1/policy", json={"operating_point": "x" * 60_000})
        assert response.status_code == 422 and len(response.content) < 1000

    async def test_a_change_that_is_not_sent_as_json_says_so(self, client: httpx.AsyncClient) -> None:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        response = await client.put("/v1/policy", content=b'{"thetas": [0.5, 0.5]}', headers=headers)
        check_refused(response, 415, "expected application/json")

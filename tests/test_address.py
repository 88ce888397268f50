import time

import pytest

from zoo_ray.address import Address, parse_address
from zoo_ray.config import read_config, validate_config
from zoo_ray.errors import UserError, without_credentials

MINIMAL = {"benchmark": {"dataset": "digits", "tasks": [[0, 1]]}}


def test_a_folder_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "my zoo?x=1")
    assert parse_address("my zoo?x=1") == Address(text=path, shown=path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", ("s3", "bucket", "", None, None, "s3://bucket")),
        ("s3://bucket/", ("s3", "bucket", "", None, None, "s3://bucket")),
        ("S3://b.u-c_k/a/b/", ("s3", "b.u-c_k", "a/b", None, None, "s3://b.u-c_k/a/b")),
        ("gs://b/my%20runs/é", ("gs", "b", "my runs/é", None, None, "gs://b/my runs/é")),
        (
            "s3://b/p?endpoint_override=127.0.0.1:9000&scheme=http&region=eu-west-1",
            ("s3", "b", "p", "http://127.0.0.1:9000", "eu-west-1", "s3://b/p"),
        ),
        ("s3://b?endpoint_override=x.y", ("s3", "b", "", "https://x.y", None, "s3://b")),
        ("gs://b?endpoint_override=[::1]:1", ("gs", "b", "", "https://[::1]:1", None, "gs://b")),
    ],
)
def test_an_object_store_is_taken_apart(text, expected):
    address = parse_address(text)
    assert address.text == text
    assert expected == (
        *(address.scheme, address.bucket, address.prefix, address.endpoint, address.region),
        address.shown,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s4://b/p", "no such kind of store"),
        ("file:///x", "no such kind of store"),
        ("http://user:pw@host/x", "no such kind of store"),
        ("s3://", "no bucket's name"),
        ("s3:///p", "no bucket's name"),
        ("s3://a b/p", "no bucket's name"),
        ("s3://b/a//c", "printable names"),
        ("s3://b/../c", "printable names"),
        ("s3://b/a/%2E%2E/c", "printable names"),
        ("s3://b/a%0Ab", "printable names"),
        ("s3://b/a\\b", "printable names"),
        ("s3://b/p?nonsense=1", "once each: endpoint_override, region, scheme"),
        ("gs://b/p?region=x", "once each: endpoint_override, scheme"),
        ("s3://b/p?scheme=http&scheme=https", "once each"),
        ("s3://b/p?scheme=ftp", "?scheme= is not right"),
        ("s3://b/p?endpoint_override=http://x", "?endpoint_override= is not right"),
        ("s3://b/p?region=", "?region= is not right"),
        ("a\0b", "null characters"),
        ("\ud800", "not a path"),
        ("~no-such-user-here/zoo", "not a path"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line(text, said):
    with pytest.raises(UserError) as caught:
        parse_address(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("store = ")
    assert "\n" not in str(caught.value)


WITH_CREDENTIALS = [
    "s3://AKIAKEY:SECRET@bucket/x",
    "s3://AKIAKEY:SEC/SECRET+=@bucket/x",
    "s3://AKIAKEY@bucket/x",
    "s3://AKIAKEY:SECRET",
    "gs://AKIAKEY:SECRET@bucket",
    "s3://bucket/x?access_key=AKIAKEY&secret_key=SECRET",
    "s3://bucket/x?access%5Fkey=AKIAKEY&secret%5Fkey=SECRET",
    "s3://bucket/x?AWS_SESSION_TOKEN=SECRET",
    "s3://bucket/x?endpoint_override=AKIAKEY:SECRET@host",
    "s3://bucket/x?region=us&password=SECRET",
]


@pytest.mark.parametrize("text", WITH_CREDENTIALS)
def test_credentials_are_refused_and_not_repeated(text, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text('benchmark: {dataset: digits, tasks: [[0, 1]]}\nstore: "' + text + '"\n')
    plain = tmp_path / "plain.yaml"
    plain.write_text("benchmark: {dataset: digits, tasks: [[0, 1]]}\n")
    for use in (
        lambda: parse_address(text),
        lambda: validate_config(MINIMAL | {"store": text}, source="test"),
        lambda: read_config(path),
        lambda: read_config(plain, overrides=[f'store="{text}"']),
    ):
        with pytest.raises(UserError) as caught:
            use()
        said = str(caught.value)
        assert "an address holds no credentials" in said
        assert "in the environment" in said
        assert "AKIAKEY" not in said
        assert "SECRET@" not in said
        assert "SECRET" not in said.replace("AWS_SECRET_ACCESS_KEY", "")
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", WITH_CREDENTIALS)
@pytest.mark.parametrize(
    "override", ["store={}: [", "store.deep={}", "store=[{}]", 'store={{a: "{}"}}', "{}", "a b={}"]
)
def test_no_other_error_repeats_them_either(text, override, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("benchmark: {dataset: digits, tasks: [[0, 1]]}\nstore: x\n")
    with pytest.raises(UserError) as caught:
        read_config(path, overrides=[override.format(text)])
    assert "AKIAKEY" not in str(caught.value)
    assert "SECRET" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_long_address_is_masked_before_it_is_cut():
    text = "s3://AKIAKEY:" + "SECRET" * 30 + "@bucket/x"
    with pytest.raises(UserError) as caught:
        validate_config(MINIMAL | {"store": [text]}, source="test")
    assert "SECRET" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "store s3://bucket/x: cannot write runs/me@home/run.json (403 AccessDenied)",
        "/home/me@home/zoo: not a path",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        "http://127.0.0.1:8265/#/jobs",
        "unknown key secret; allowed here: a, b",
        "recipe.lr = 0.5: Input should be less than 0.1",
        "run_cluster.py train run.yaml --set recipe.network_arguments.tokens=8",
        "python run_cluster.py tune x --set base.recipe.network_arguments.token_mixer=conv3x3",
        "run.yaml: recipe.network_arguments.n_tokens = 8: too many",
        "error: tokens.yaml: unknown key zoo.foo",
        "'runs/tokens.yaml': benchmark.tasks.0.1 = no: not a class",
        "store /etc/passwd: cannot write",
        "/home/me/my-secret-data1: is empty, /home/me/secret.py:12: no",
        "recipe={network_arguments: {tokens: 8}}",
        "store s3://b: cannot read",
        "no bucket at s3://b:",
    ],
)
def test_what_holds_none_is_left_as_it_is(text):
    assert without_credentials(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "secret_access_key=SECRET",
        "{'aws_secret_access_key': 'SECRET'}",
        '{"password": "SECRET"}',
        "password: 'SECRET'",
        "'password': SECRET",
        "password:SECRET",
        "if token == 'SECRET'",
        "&Signature=SECRET&x=1",
        "RAY_AUTH_TOKEN=SECRET",
        "X-Amz-Security-Token: SECRETb3JpZ2luX2VjE",
        "recipe.network_arguments.token=SECRETb3JpZ2luX2VjE",
        "-u me@host/token:SECRETb3JpZ2luX2VjE",
        "tokens.yaml: password = SECRET",
        "/etc/passwd: secret_key=SECRET",
        "https://host/x?at=/y&token:SECRET",
        "scheme://user:SECRET@host: cannot read",
        "s3://KEY:SECRET@b: cannot read",
        "s3://KEY:SECRET: cannot read",
    ],
)
def test_what_may_be_one_is_masked(text):
    assert "SECRET" not in without_credentials(text)
    assert "***" in without_credentials(text)


def test_a_long_text_is_masked_in_no_time():
    text = "y" * 300_000 + "a." * 100_000
    began = time.process_time()
    assert without_credentials(f"{text} token=abc") == f"{text} token=***"
    assert time.process_time() - began < 5

"""Prices of the user's own, in place of those at launch."""

import pytest

from gpubench import advice
from gpubench.cli import main
from gpubench.errors import UsageError
from gpubench.prices import Price, load_prices
from gpubench.profile import load_profile
from gpubench.recommend import Question, recommend

BALANCED = load_profile("balanced")


def ask(job=None, **known):
    return recommend(Question(**({"profile": BALANCED, "job": job} | known)))


def names(scores):
    return [one.name for one in scores]


def test_a_file_of_prices_takes_the_place_of_the_launch_prices_of_its_cards_alone(tmp_path):
    path = tmp_path / "today.csv"
    path.write_text("card_id,price_usd,date\nnvidia-a100-pcie-40gb,3000,2026-11-01\n")
    answer = ask(prices=load_prices(str(path)), cards=("*4090", "nvidia-a100-*40gb"))
    assert set(names(answer.ranking.scored)) == {"nvidia-a100-pcie-40gb", "geforce-rtx-4090"}
    assert names(answer.ranking.apart) == ["nvidia-a100-sxm4-40gb"]
    said = advice.text(answer, "table", 2)
    assert "$3,000, given 2026-11-01" in said
    assert "$1,599, launch 2022-10" in said
    assert "1 card at the price in today.csv; the others have those at launch" in said
    assert max(map(len, advice.tables(answer, 2, "table").splitlines())) <= 120
    alone = ask(prices=load_prices(str(path)), cards=("nvidia-a100-pcie-40gb",))
    assert "given price" in advice.text(alone, "table", 2)


def test_a_file_named_as_launch_prices_are_holds_given_ones(tmp_path):
    path = tmp_path / "launch"
    path.write_text("card_id,price_usd\ngeforce-rtx-3090,1\n")
    answer = ask(prices=load_prices(str(path)), cards=("*3090", "*4090"))
    assert "prices are those of --prices" in advice.sentence(answer)
    assert "$1.00, given" in advice.text(answer, "table", 2)
    assert any("at the price in launch;" in line for line in advice.assumptions(answer))


def test_an_empty_name_is_a_file_that_is_not_there(capsys):
    assert main(["recommend", "--prices", ""]) == 2
    assert "check the path" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["1200", "$1200", '"1,200"', '"$1,200.00"', "1.2e3"])
def test_a_price_may_have_a_dollar_sign_and_commas_between_thousands(tmp_path, written):
    path = tmp_path / "p.csv"
    path.write_text(f"card_id,price_usd\ntesla-t4,{written}\n")
    assert load_prices(str(path))["tesla-t4"].usd == 1200


@pytest.mark.parametrize("written", ["1200.50", "1200.5", "1200.5000", '"$1,200.50"'])
def test_a_point_before_cents_is_one(tmp_path, written):
    path = tmp_path / "p.csv"
    path.write_text(f"card_id,price_usd\ntesla-t4,{written}\n")
    assert load_prices(str(path))["tesla-t4"].usd == 1200.5


def test_prices_in_toml_say_the_same_as_in_csv(tmp_path):
    csv, toml = tmp_path / "p.csv", tmp_path / "p.toml"
    csv.write_text("card_id,price_usd\ntesla-t4,400\n")
    toml.write_text('[[price]]\ncard_id = "tesla-t4"\nprice_usd = 400\ndate = 2026-01-31\n')
    assert load_prices(str(csv)) == {"tesla-t4": Price(400, "", "given", "p.csv")}
    assert load_prices(str(toml)) == {"tesla-t4": Price(400, "2026-01-31", "given", "p.toml")}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "card_id,price_usd\ntesla-t44,400\n", "did you mean 'tesla-t4'"),
        ("p.csv", "card_id,price_usd\ntesla-t4,nan\n", "'nan' is no price"),
        ("p.csv", "card_id,price_usd\ntesla-t4,-1\n", "'-1' is no price"),
        ("p.csv", "card_id,price_usd\ntesla-t4,\n", "is no price"),
        ("p.csv", "card_id,price_usd\ntesla-t4,1e308\n", "is no price from 0.01 to 1e+09"),
        ("p.toml", "[[price]]\ncard_id = 'tesla-t4'\nprice_usd = 0.001\n", "0.001 is no price"),
        ("p.csv", "card_id,price_usd,date\ntesla-t4,1,soon\n", "'soon' is no date"),
        ("p.csv", "card_id,price_usd\ntesla-t4,1\ntesla-t4,2\n", "has a price already"),
        ("p.csv", "card_id,euro\ntesla-t4,1\n", "unknown 'euro'"),
        ("p.csv", "card_id\ntesla-t4\n", "lacks 'price_usd'"),
        ("p.csv", "card_id,price_usd\n", "has no prices"),
        ("p.csv", "card_id,price_usd\ntesla-t4,1,200\n", "quote a price with a comma"),
        ("p.csv", 'card_id,price_usd\ntesla-t4,"1,20"\n', "is no price"),
        ("p.csv", "card_id,price_usd\ntesla-t4,700 €\n", "write US dollars"),
        ("p.csv", "card_id,price_usd\ntesla-t4,1.200\n", "'1.200' is no price"),
        ("p.csv", "card_id,price_usd\ntesla-t4,$12.500\n", "'$12.500' is no price"),
        ("p.toml", "[[price]]\ncard_id = 'tesla-t4'\nprice_usd = '1.200'\n", "as 1200, 1200.50"),
        ("p.toml", "prices = 3\n", '[[price]] card_id = "tesla-t4", price_usd = 400'),
        ("p.toml", "[price]\ncard_id = 'x'\n", "[[price]] blocks"),
        ("p.toml", "[[price]]\ncard_id = 'tesla-t4'\nprice_usd = true\n", "True is no price"),
        ("nowhere.csv", None, "No such file"),
    ],
)
def test_bad_prices_are_refused_with_the_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as error:
        load_prices(str(tmp_path / name))
    assert words in f"{error.value} {error.value.remedy}"

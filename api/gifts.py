"""Who may give whom what: nobody gives more than they may give, gives to themselves, or mends who stands above them."""

from __future__ import annotations

from collections.abc import Sequence

from api.asking import Asking, of_places
from api.locators import places_of
from api.services import Backend
from domain.errors import Forbidden, InvalidInput
from domain.labels import LABELS
from domain.permissions import Action, Authoriser, View
from domain.principals import POWERFUL, PROGRAMS, Caller, Factor, Grant, Kind, Place, Principal, Role
from runtime.sql.grants import is_region


async def check_gift(behind: Backend, who: Asking, given: Sequence[Grant]) -> None:
    """Raise Forbidden unless `who` may give all of this.

    It takes grant.manage at each place; what an administrator may do is given by administrators of the region alone.
    """
    if not given:
        return
    places = await places_of(behind, [grant.place for grant in given])
    who.also(of_places(places, LABELS["grants"]), Action.GRANT_MANAGE)
    if any(grant.role is Role.ADMINISTRATOR for grant in given) and not is_administrator(who.caller):
        raise Forbidden(f"{who.caller.principal.name} may not give {Role.ADMINISTRATOR}: that is given by one of them alone")


def check_program(role: Role) -> None:
    """Raise InvalidInput for a role that no program has: whoever makes a token holds it, and would be that person."""
    if role not in PROGRAMS:
        expected = ", ".join(sorted(PROGRAMS - {Role.ADMINISTRATOR}))
        raise InvalidInput(f"{role} is a person's role, who signs in as a user: of a token one of {expected} is expected")


def shows_names(authoriser: Authoriser, grant: Grant) -> bool:
    """Whether who has this one grant sees patients by name."""
    somebody = Caller(Principal(Kind.SERVICE, "", ""), (grant,), factors=frozenset({Factor.TOKEN}))
    return not authoriser.reach(somebody, Action.PATIENT_READ, view=View.CLEAR).is_nothing


def check_powers(behind: Backend, who: Asking, roles: Sequence[Role]) -> None:
    """Raise Forbidden when an account with such power (`POWERFUL`) is to be changed by one who may give no powers.

    Whoever sets a password may sign in with it.
    """
    if POWERFUL.isdisjoint(roles):
        return
    who.also(of_places([Place(behind.services.region_id)], LABELS["grants"]), Action.GRANT_MANAGE)
    if Role.ADMINISTRATOR in roles and not is_administrator(who.caller):
        raise Forbidden(f"{who.caller.principal.name} may not change an account of an {Role.ADMINISTRATOR}")


def is_administrator(caller: Caller) -> bool:
    return any(grant.role is Role.ADMINISTRATOR and is_region(grant.place) for grant in caller.grants)

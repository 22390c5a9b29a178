"""Users, and who is asking."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.rights import Right, Rights
from api.second_factor_set_up import FactorState
from api.sign_in import Issued
from api.times import Rfc3339, Zone, maybe_instant
from domain.permissions import Action, Purpose
from domain.principals import Caller, Factor, Grant, Kind, Must, Place, Relation, Role, place_of_role
from runtime.sql.users import UserStatus


class GrantIn(BaseModel):
    """A role at a place and everywhere in it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"role": "nurse", "place": "sz.h012/icu"}]})
    role: Role
    place: str | None = Field(
        None,
        max_length=131,
        description="`sz`, `sz:futian` (a district), `sz.h012` or `sz.h012/icu`; left out for roles of the region alone.",
    )
    relation: Relation = Field(Relation.ANY, description="care-team: to the patients alone whom the user treats.")
    until: Rfc3339 | None = Field(None, description="It ends by itself then.")

    def to_grant(self, region: Place) -> Grant:
        """Raises InvalidInput for what is no place, and for none where the role needs one."""
        place = place_of_role(self.role, self.place, region)
        return Grant(self.role, place, self.relation, maybe_instant(self.until))


class UserIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "li.na", "grants": [{"role": "nurse", "place": "sz.h012/icu"}]}]},
    )
    name: str = Field(description="What the user signs in with; stands in the write log. 2 to 64 of a-z, 0-9, '.', '_', '-'.")
    grants: list[GrantIn] = Field([], max_length=50, description="Without any the user may do nothing yet.")
    patient_key: str | None = Field(None, max_length=32, description="Of the patient whose own account it is.")


class UserOut(BaseModel):
    name: str
    id: str
    status: UserStatus
    roles: list[Role]
    must_change: bool = Field(description="The password was given by somebody else, and opens nothing until it is changed.")
    second_factor: bool = Field(description="One is set up, and needed at sign-in.")
    locked_until: str | None = Field(description="Too many sign-ins failed.")
    created: str
    password_changed: str
    last_login: str | None

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone, now_us: int) -> Self:
        locked_us = row["locked_until_us"]
        return cls(
            name=row["name"], id=row["id"], status=row["status"], roles=row["roles"], must_change=row["must_change"],
            second_factor=row["second_factor"],
            locked_until=zone.text(locked_us) if locked_us is not None and locked_us > now_us else None,
            created=zone.text(row["created_us"]), password_changed=zone.text(row["password_changed_us"]),
            last_login=zone.maybe(row["last_login_us"]),
        )  # fmt: skip


class FirstPassword(BaseModel):
    """For the user's next sign-in, where it has to be changed."""

    name: str
    first_password: str = Field(description="Shown this once.")


class GrantOut(BaseModel):
    role: Role
    place: str
    relation: Relation
    until_us: int | None = Field(description="UTC microseconds; null: it does not end by itself.")


class GrantShown(BaseModel):
    """What a user was given; `ended`: it was taken back, `until`: it ends, or ended, by itself."""

    id: int
    role: Role
    place: str
    relation: Relation
    given: str
    until: str | None
    ended: str | None

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        shown = {name: row[name] for name in ("id", "role", "place", "relation")}
        given, until, ended = zone.text(row["given_us"]), zone.maybe(row["until_us"]), zone.maybe(row["ended_us"])
        return cls(**shown, given=given, until=until, ended=ended)


class RightOut(BaseModel):
    """An action, at most at these levels (GB/T 39725, 1 to 5; null: not at all), for these purposes."""

    action: Action
    level: int | None = Field(description="Of all records at the place.")
    level_of_own_patients: int | None = Field(description="Of patients whom the user treats, or is.")
    purposes: list[Purpose]


class GrantRights(BaseModel):
    """What one grant allows, beside the others that the user has."""

    role: Role
    place: str
    relation: Relation
    until: str | None
    rights: list[RightOut]

    @classmethod
    def of(cls, grant: Grant, rights: list[Right], zone: Zone) -> Self:
        shown = [
            RightOut(action=right.action, level=right.level, level_of_own_patients=right.of_own, purposes=list(right.purposes))
            for right in rights
        ]
        return cls(
            role=grant.role, place=str(grant.place), relation=grant.relation, until=zone.maybe(grant.until_us), rights=shown
        )


class OtherFactors(BaseModel):
    """What would be otherwise with, or without, a second factor: only the rights that differ."""

    factors: list[Factor]
    grants: list[GrantRights]

    @classmethod
    def of(cls, caller: Caller, rights: Rights, zone: Zone) -> Self:
        return cls(factors=sorted(caller.factors), grants=[GrantRights.of(grant, held, zone) for grant, held in rights])


class PermissionsOut(BaseModel):
    """What a user may do in effect, signed in with these factors."""

    name: str
    factors: list[Factor]
    grants: list[GrantRights]
    otherwise: OtherFactors | None = Field(description="With a second factor, or without it; null for programs, who have none.")

    @classmethod
    def of(cls, caller: Caller, rights: Rights, zone: Zone, otherwise: OtherFactors | None = None) -> Self:
        shown = [GrantRights.of(grant, held, zone) for grant, held in rights]
        return cls(name=caller.principal.name, factors=sorted(caller.factors), grants=shown, otherwise=otherwise)


class SessionShown(BaseModel):
    """A user who is signed in."""

    id: str
    user: str
    since: str
    active: str = Field(description="When the user was last seen to do something; up to a thirtieth of the idle time ago.")
    ends: str = Field(description="Whatever is done.")
    address: str = Field(description="As the socket told at sign-in: a proxy's, behind one.")
    factors: list[Factor]

    @classmethod
    def of(cls, row: dict[str, Any], zone: Zone) -> Self:
        times = {"since": row["begun_us"], "active": row["active_us"], "ends": row["ends_us"]}
        return cls(
            id=row["id"], user=row["name"], address=row["address"], factors=row["factors"].split(),
            **{name: zone.text(at_us) for name, at_us in times.items()},
        )  # fmt: skip


class SecondFactorOut(BaseModel):
    since: str | None = Field(description="Null: there is none.")
    recovery_codes_left: int

    @classmethod
    def of(cls, state: FactorState, zone: Zone) -> Self:
        return cls(since=zone.maybe(state.since_us), recovery_codes_left=state.recovery_codes_left)


class PresentIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"present": "…"}]})
    present: str = Field(description="The password.")


class CodeIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"code": "123456"}]})
    code: str = Field(max_length=64)


class RemovalIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"present": "…", "code": "123456"}]})
    present: str = Field(description="The password.")
    code: str = Field(max_length=64, description="A one-time code, or a recovery code.")


class SecretOut(BaseModel):
    """For an authenticator app (RFC 6238: SHA-1, six digits, 30 s)."""

    secret: str = Field(description="Base32. Shown this once.")
    uri: str = Field(description="otpauth://, as a QR code holds it.")


class RecoveryCodes(BaseModel):
    recovery_codes: list[str] = Field(description="Shown this once; each is good once.")


class MeOut(BaseModel):
    """Who is asking, and what they were given."""

    kind: Kind
    id: str
    name: str
    grants: list[GrantOut]
    patient_key: str | None = Field(description="Of a patient's own account.")
    session: str | None = Field(description="Id of the session; null for a token.")
    must: Must | None = Field(description="What has to be done before anything else is permitted.")
    second_factor: SecondFactorOut | None = Field(description="Of a user.")
    signed_in: SessionShown | None = Field(description="The session.")

    @classmethod
    def of(cls, caller: Caller, second_factor: SecondFactorOut | None = None, signed_in: SessionShown | None = None) -> Self:
        principal = caller.principal
        given = [
            GrantOut(role=grant.role, place=str(grant.place), relation=grant.relation, until_us=grant.until_us)
            for grant in caller.grants
        ]
        return cls(
            kind=principal.kind, id=principal.id, name=principal.name, grants=given, patient_key=caller.patient_key,
            session=caller.session_id, must=caller.must, second_factor=second_factor, signed_in=signed_in,
        )  # fmt: skip


class PasswordIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"present": "…", "new": "four unrelated small words"}]}
    )
    present: str
    new: str = Field(description="12 to 128 characters, hard to guess, and none of the last five.")


class SessionOut(BaseModel):
    """A new session: the former one ended with the password."""

    access_token: str
    refresh_token: str | None
    expires_in: int = Field(description="Seconds.")

    @classmethod
    def of(cls, issued: Issued) -> Self:
        return cls(access_token=issued.access_token, refresh_token=issued.refresh_token, expires_in=issued.expires_in_s)

"""The pages of one's own second factor: begin with the password, scan, confirm by a code, copy the recovery codes.

The QR code is drawn here, into the page. It is shown once, in the answer to the password: neither going back nor a wrong
code brings it again. Clauses 5.4a, 7.2a.
"""

from __future__ import annotations

import segno
from fastapi import APIRouter, Request, Response

from api.auth import FACTOR_CONFIRM_URL, FACTOR_REMOVE_URL, FACTOR_URL
from api.errors import problem_type
from api.forms import address_of
from api.pages import fields_of, shown
from api.scope_keys import CALLER_KEY
from api.services import Backend, Behind
from domain.errors import InvalidInput, VitalgridError
from domain.principals import Caller, Must

router = APIRouter(include_in_schema=False)


@router.get(FACTOR_URL)
async def second_factor_page(request: Request, behind: Behind) -> Response:
    """Whether there is one, and the form to begin or to take it away."""
    return await _state(request.scope[CALLER_KEY], behind)


@router.post(FACTOR_URL)
async def propose(request: Request, behind: Behind) -> Response:
    """The QR code, and the form for a code of it."""
    caller: Caller = request.scope[CALLER_KEY]
    fields = await fields_of(request)
    try:
        proposed = await behind.second_factor.propose(caller, fields.get("present", ""), address_of(request))
    except VitalgridError as error:
        return await _state(caller, behind, error)
    code = segno.make(proposed.uri, error="m", micro=False).svg_inline(omitsize=True, border=4, dark="#000", light="#fff")
    return _factor("confirm", caller, code=code, secret=proposed.secret)


@router.post(FACTOR_CONFIRM_URL)
async def confirm(request: Request, behind: Behind) -> Response:
    """The recovery codes, this once."""
    caller: Caller = request.scope[CALLER_KEY]
    fields = await fields_of(request)
    try:
        codes = await behind.second_factor.confirm(caller, fields.get("code", ""), address_of(request))
    except InvalidInput as error:
        return _factor("confirm", caller, error, code="", secret="")
    except VitalgridError as error:
        return await _state(caller, behind, error)
    return _factor("codes", caller, codes=codes)


@router.post(FACTOR_REMOVE_URL)
async def remove(request: Request, behind: Behind) -> Response:
    """The second factor goes; the form to begin with another one."""
    caller: Caller = request.scope[CALLER_KEY]
    fields = await fields_of(request)
    try:
        given = fields.get("present", ""), fields.get("code", "")
        await behind.second_factor.remove(caller, *given, address_of(request))
    except VitalgridError as error:
        return await _state(caller, behind, error)
    return await _state(caller, behind)


async def _state(caller: Caller, behind: Backend, error: VitalgridError | None = None) -> Response:
    state = await behind.second_factor.state(caller)
    is_on = state.since_us is not None
    return _factor("factor", caller, error, is_on=is_on, left=state.recovery_codes_left)


def _factor(page: str, caller: Caller, error: VitalgridError | None = None, **values: object) -> Response:
    status = 200 if error is None else problem_type(type(error)).status
    must, name = caller.must is Must.SECOND_FACTOR, caller.principal.name
    return shown(page, status, problem=str(error or ""), title="双因素登录", must=must, name=name, **values)

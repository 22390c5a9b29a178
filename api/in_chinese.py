"""What pages of an account say when something does not go: in Chinese first, as the rest of a page."""

from __future__ import annotations

from typing import Final

# the beginning of a sentence of ours, and what it says
_SAYS: Final = (
    ("the user signed in again", "该用户已在别处登录，每个用户只有一个会话。"),
    ("nothing was done for too long", "长时间无操作，请重新登录。"),
    ("the session has lasted", "会话已到最长时限，请重新登录。"),
    ("the user signed out", "用户已退出登录。"),
    ("the password was changed", "密码已修改，请用新密码登录。"),
    ("the user was disabled", "该用户已停用。"),
    ("an administrator ended the session", "管理员已结束该会话。"),
    ("an administrator took the second factor away", "管理员已移除双因素登录，请登录后重新设置。"),
    ("the token was replaced", "令牌已由同一会话的新令牌取代。"),
    ("a refresh token was used twice", "刷新令牌被使用两次，可能已泄露，请重新登录。"),
    ("this user signs in too often", "该用户登录过于频繁，请稍候几秒再试。"),
    ("too many sign-ins from this address failed", "此地址登录失败次数过多，请稍候几秒再试。"),
    ("the present password is another one", "当前密码不对。"),
    ("the password cannot be changed", "密码不能修改：错误次数过多，或没有密码。"),
    ("the password was just changed", "密码刚刚已被他人修改。"),
    ("the password is one of the last", "新密码最近用过，请换一个。"),
    ("the password has", "密码长度不符。"),
    ("the password would soon be guessed", "密码容易被猜到，请用几个与您无关的词。"),
    ("the code is not the one of now", "验证码不是当前的，请用最新的验证码，并检查手机时间。"),
    ("the code is wrong", "验证码不对或已用过，请等下一个。"),
    ("there is no second factor to remove", "没有可停用的双因素登录。"),
    ("there is a second factor already", "双因素登录已启用，请先停用。"),
    ("the second factor was just set up", "双因素登录刚刚已重新设置，或会话已结束，请重新开始。"),
    ("no second factor was begun", "最近一刻钟内没有开始设置，请从输入密码重新开始。"),
    ("the form comes from another site", "表单来自其他网站，已拒绝。"),
)


def bilingual(sentence: str) -> str:
    """The sentence, what it says in Chinese before it; as it is where nothing is known of it."""
    return next((says for begins, says in _SAYS if sentence.startswith(begins)), "") + sentence

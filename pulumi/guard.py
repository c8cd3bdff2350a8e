"""What keeps the bill small: office hours, and a letter when a month will cost more than it should.

The third part, the stop of an idle box, is decided on the box itself (role idle_stop), which may stop itself without
any right in AWS; the program only passes the minutes on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from access import assume_role_by
from settings import Budget, OfficeHours

# The actions of EventBridge Scheduler that start and stop machines, by the API's names.
_ACTIONS = {"start": "startInstances", "stop": "stopInstances"}
# Percent of the budget, and whether it is the month's forecast or what is spent already.
_WARNINGS = ((100, "FORECASTED"), (80, "ACTUAL"), (100, "ACTUAL"))


@dataclass(frozen=True, kw_only=True)
class OfficeHoursArgs:
    """When which machines run. The ARNs are what the schedule may start and stop, and nothing else."""

    hours: OfficeHours
    instance_ids: Sequence[pulumi.Output[str]]
    instance_arns: Sequence[pulumi.Output[str]]
    tags: dict[str, str]


class OfficeHoursGuard(pulumi.ComponentResource):
    """Two schedules, and the role with which they start and stop the machines. Output: `role_arn`."""

    role_arn: pulumi.Output[str]

    def __init__(self, name: str, args: OfficeHoursArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infbox:aws:OfficeHoursGuard", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        arns = pulumi.Output.all(*args.instance_arns)
        role = aws.iam.Role(
            f"{name}-hours",
            # Schedules of other accounts may not use it.
            assume_role_policy=assume_role_by("scheduler.amazonaws.com", SourceAccount=_account(self)),
            tags=args.tags,
            opts=own,
        )
        policy = aws.iam.RolePolicy(f"{name}-hours", role=role.name, policy=arns.apply(start_stop_policy), opts=own)
        ids = pulumi.Output.all(*args.instance_ids).apply(lambda known: json.dumps({"InstanceIds": known}))
        for what, action in _ACTIONS.items():
            aws.scheduler.Schedule(
                f"{name}-{what}",
                schedule_expression=cron(getattr(args.hours, what), args.hours.days),
                schedule_expression_timezone=args.hours.timezone,
                flexible_time_window={"mode": "OFF"},
                target={"arn": f"arn:aws:scheduler:::aws-sdk:ec2:{action}", "role_arn": role.arn, "input": ids},
                opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
            )
        self.role_arn = role.arn
        self.register_outputs({"role_arn": self.role_arn})


def start_stop_policy(arns: Sequence[str]) -> str:
    """The policy that lets its holder start and stop these machines."""
    statement = {
        "Effect": "Allow",
        "Action": ["ec2:StartInstances", "ec2:StopInstances"],
        "Resource": list(arns),
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def cron(time: str, days: str) -> str:
    """EventBridge's expression for a time (HH:MM) on some days (as in MON-FRI)."""
    hour, minute = time.split(":")
    return f"cron({int(minute)} {int(hour)} ? * {days} *)"


@dataclass(frozen=True, kw_only=True)
class BudgetArgs:
    """What may be spent, and who is told."""

    budget: Budget
    tags: dict[str, str]


class BudgetGuard(pulumi.ComponentResource):
    """A letter when the account's month will cost, or has cost, more than the budget.

    It counts the whole account: what is counted by tag is nothing until somebody activates the tag for billing.
    """

    def __init__(self, name: str, args: BudgetArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infbox:aws:BudgetGuard", name, None, opts)
        aws.budgets.Budget(
            name,
            account_id=_account(self),
            budget_type="COST",
            time_unit="MONTHLY",
            limit_amount=f"{args.budget.monthly_usd:.2f}",
            limit_unit="USD",
            notifications=[
                {
                    "comparison_operator": "GREATER_THAN",
                    "threshold": percent,
                    "threshold_type": "PERCENTAGE",
                    "notification_type": kind,
                    "subscriber_email_addresses": [args.budget.email],
                }
                for percent, kind in _WARNINGS
            ],
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})


def _account(parent: pulumi.Resource) -> str:
    return aws.get_caller_identity(opts=pulumi.InvokeOptions(parent=parent)).account_id
